"""A dataset's spend over all jobs, computed from a ledger's entries, and its lifetime limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from blindsum.platform.errors import LedgerError
from blindsum.platform.privacy.lifetime_limit import Divergences, Limit, nothing, round_divergences
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.state.ledger_entries import Dataset, Entry, Lifetime

_SPENDING = ("charge", "charge held-out", "unprotected")


def plan_of(recorded: dict[str, Any]) -> PrivacyPlan:
    """Return the plan that an entry records, without the entry's further fields."""
    names = {field.name for field in fields(PrivacyPlan)}
    return PrivacyPlan(**{key: value for key, value in recorded.items() if key in names})


def composed(entries: Iterable[Entry], dataset: Dataset) -> Lifetime:
    """Return a dataset's spend in all jobs, by basic composition.

    Epsilon is infinite after a job without differential privacy. Plans that were reserved but never
    charged do not count, because nothing was released for them. For each job, the larger spend of
    training and held-out records counts, because no record is both. Exact held-out counts have no
    budget and do not count.
    """
    jobs: dict[str, tuple[float, float]] = {}
    for entry in entries:
        if entry.kind in _SPENDING and entry.dataset in dataset:
            epsilon, delta = jobs.get(entry.job, (0.0, 0.0))
            spent = math.inf if entry.epsilon is None else entry.epsilon
            jobs[entry.job] = max(epsilon, spent), max(delta, entry.delta)
    return Lifetime(len(jobs), sum(e for e, _ in jobs.values()), sum(d for _, d in jobs.values()))


def spent_divergences(entries: Iterable[Entry], dataset: Dataset) -> Divergences:
    """Return the Renyi divergences of all charges of a dataset, float64 [orders].

    For each job, the greater of the divergences of training and held-out records counts at each
    order, because no record is both. They are infinite after a job without differential privacy.
    """
    spent, plans = nothing(), {}
    jobs: dict[str, dict[str, Divergences]] = {}
    for entry in entries:
        records = "held-out" if entry.kind.endswith("held-out") else ""
        if entry.kind.startswith("reserve") and entry.plan is not None:
            plans[entry.job, records] = round_divergences(plan_of(entry.plan))
        if entry.dataset in dataset and entry.kind.startswith("charge"):
            of_job = jobs.setdefault(entry.job, {})
            of_job[records] = of_job.get(records, nothing()) + plans[entry.job, records]
        if entry.dataset in dataset and entry.kind == "unprotected":
            spent = spent + math.inf
    for of_job in jobs.values():
        spent = spent + np.maximum(*[of_job.get(r, nothing()) for r in ("", "held-out")])
    return spent


def require_within(
    limit: Limit,
    spent: Divergences,
    plan: PrivacyPlan,
    held_out: PrivacyPlan | None,
    ledger: Path,
) -> None:
    """Raise LedgerError if a job's plans, on top of past spend, would exceed the lifetime limit.

    Args:
        spent: the Renyi divergences that the dataset has spent so far, float64 [orders].
        held_out: the plan for held-out records, if they have a budget.
        ledger: the ledger's path, for messages.
    """
    needed = [
        min(one.rounds, one.rounds_within_budget) * round_divergences(one)
        for one in (plan, held_out)
        if one
    ]
    if limit.holds(spent + np.max(needed, axis=0)):
        return
    if not math.isfinite(spent[0]):
        raise LedgerError(
            "a job has trained on this table without differential privacy, so the lifetime limit "
            f"of {ledger} cannot hold",
            "Use another table.",
        )
    left = min(limit.rounds_left(spent, plan), plan.rounds)
    raise LedgerError(
        f"the plan would exceed the lifetime limit of epsilon {limit.epsilon:g} at delta "
        f"{limit.delta:g} in {ledger}; past jobs spent {limit.epsilon_of(spent):.3g} of it",
        "The training would fit: lower privacy.metrics_epsilon."
        if left == plan.rounds
        else f"At this noise multiplier, {left} rounds still fit."
        if left
        else "Not even one round of this plan fits.",
    )

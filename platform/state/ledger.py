"""What a silo's data has spent: an append-only, hash-chained, signed ledger in the silo's folder.

Order of every round: check, commit the charge to disk, and only then train and send. A crash
at any point can only over-count. Nothing is ever refunded.

Entries are signed by the silo's identity: changes by whomever does not hold its keys are found when
the ledger is next opened. Entries cut off from the end are found by comparing the head with one kept
elsewhere: every run leaves it in MLflow as of its last round that ended. A dataset is known by the columns that the job uses.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from blindsum.platform.errors import BudgetExceeded, LedgerError
from blindsum.platform.privacy.lifetime_limit import Divergences, Limit, nothing, round_divergences
from blindsum.platform.privacy.plan import ACCOUNTANT, UNIT, Accountant, PrivacyPlan
from blindsum.platform.state.ledger_entries import (
    EARLIER,
    Attempt,
    Dataset,
    Entry,
    Kind,
    Lifetime,
    Records,
)
from blindsum.platform.state.signed_log import Chain, Signer

_OF_JOB = "json_extract(content, '$.job') = ? AND json_extract(content, '$.kind') = ?"


class Ledger:
    """One silo's ledger.

    Args:
        path: the SQLite file; made with mode 0600 if missing.
        signer: the silo's identity.
        now: the clock, seconds since 1970.
        adopt: go on under this identity though another signed so far; that is recorded.

    Raises:
        LedgerError: the file cannot be opened, is not a ledger, or its chain is broken.
    """

    def __init__(
        self,
        path: Path,
        silo: str,
        signer: Signer,
        now: Callable[[], float] = time.time,
        adopt: bool = False,
    ) -> None:
        self.path, self.silo, self._now = path, silo, now
        self.chain = Chain(path, signer, earlier=EARLIER)
        state = self.chain.verified
        if adopt:
            with self.chain.transaction():
                # The number of entries that nothing signed: no others may lose their signatures.
                unsigned = state.unsigned if not state.signers else 0
                self.append_within(Entry("identity", now(), "", silo, "", unsigned, 0, 0.0, 0.0))
        elif state.entries and signer.public not in state.signers[-1:]:
            how = "signed by another identity than this silo's" if state.signers else "not signed"
            raise LedgerError(
                f"the newest entry of the ledger {path} is {how}",
                "Put that identity back, or the ledger from a backup. If the identity was replaced "
                "on purpose, or an earlier version wrote the ledger: blindsum ledger adopt.",
            )

    def entries(self, job: str | None = None) -> list[Entry]:
        """All entries, or one job's, oldest first."""
        where = "WHERE json_extract(content, '$.job') = ? " if job else ""
        with self.chain.explained():
            rows = self.chain.db.execute(
                f"SELECT content FROM entries {where}ORDER BY number", (job,) if job else ()
            ).fetchall()
        return [Entry(**json.loads(content)) for (content,) in rows]

    def of_kind(self, kind: Kind) -> list[Entry]:
        """All entries of one kind, oldest first."""
        with self.chain.explained():
            rows = self.chain.db.execute(
                "SELECT content FROM entries WHERE json_extract(content, '$.kind') = ? ORDER BY number",
                (kind,),
            ).fetchall()
        return [Entry(**json.loads(content)) for (content,) in rows]

    def names_of(self, fingerprints: Collection[str]) -> frozenset[str]:
        """Every name under which a table of one of those fingerprints was reserved."""
        begun = [e for kind in ("reserve", "unprotected") for e in self.of_kind(kind)]
        return frozenset(
            e.dataset for e in begun if e.plan and e.plan.get("fingerprint") in fingerprints
        )

    def append(self, entry: Entry) -> None:
        """Write one entry to disk."""
        with self.chain.transaction():
            self.append_within(entry)

    def append_within(self, entry: Entry) -> None:
        """Write one entry, inside a transaction that is under way."""
        self.chain.append(entry.canonical())

    def reserve(
        self,
        job: str,
        dataset: Dataset,
        plan: PrivacyPlan,
        held_out: PrivacyPlan | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Record the whole plan before the job's first charge, and that for held-out records.

        Args:
            first: called inside the transaction, before anything is written: uses up an approval.

        Raises:
            LedgerError: this job has reserved already, or the plan would pass the lifetime limit.
        """
        with self._appending(job) as entries:
            self.require_lifetime(dataset, plan, held_out)
            if entries:
                raise LedgerError(
                    f"job {job} has already reserved its plan in {self.path}",
                    "A job's number is used once: start a new run.",
                )
            first()
            reserved: list[tuple[Kind, PrivacyPlan]] = [("reserve", plan)]
            reserved += [("reserve held-out", held_out)] if held_out else []
            for kind, one in reserved:
                self.append_within(
                    Entry(
                        kind,
                        self._now(),
                        job,
                        self.silo,
                        dataset.name,
                        0,
                        0,
                        one.epsilon,
                        one.delta,
                        asdict(one)
                        | {"accountant": ACCOUNTANT, "unit": UNIT}
                        | {"fingerprint": dataset.fingerprint},
                    )
                )

    def goes_on(self, job: str, dataset: Dataset, plan: PrivacyPlan | None) -> Attempt | None:
        """Whether an interrupted job may go on, and the attempt that it noted last.

        Returns:
            None if it has not reserved its plan yet.

        Raises:
            LedgerError: it was begun on another table or with another plan.
        """
        of_job = [e for e in self.entries(job) if e.kind != "begun"]
        if not of_job:
            return None
        first = of_job[0]
        same = first.kind == ("reserve" if plan else "unprotected") and first.dataset in dataset
        if not same or (plan and first.plan is not None and _plan_of(first.plan) != plan):
            raise LedgerError(
                f"job {job} was begun on another table, or with another plan",
                "Put table and job file back as they were, or start a new run.",
            )
        noted = [e for e in of_job if e.kind in ("charge", "attempt")]
        if not noted:
            return Attempt()
        last = max(noted, key=lambda e: (e.round, e.attempt))
        return Attempt(last.round, last.attempt, tuple(last.roster or ()))

    def unprotected(
        self, job: str, dataset: Dataset, first: Callable[[], None] = lambda: None
    ) -> None:
        """Record that a job trains on this dataset without differential privacy.

        Its spend has no bound, and no later job can make it smaller.

        Raises:
            LedgerError: the silo has a lifetime limit.
        """
        with self._appending(job):
            if limit := self.limit():
                raise LedgerError(
                    f"{self.path} limits the lifetime epsilon to {limit.epsilon:g}, and a job "
                    "without differential privacy has none",
                    "Set privacy.noise, or train on another table.",
                )
            first()
            self.append_within(
                Entry(
                    "unprotected",
                    self._now(),
                    job,
                    self.silo,
                    dataset.name,
                    0,
                    0,
                    None,
                    1.0,
                    {"fingerprint": dataset.fingerprint},
                )
            )

    def attempt(self, job: str, round: int, attempt: int, roster: Sequence[str]) -> None:
        """Note an attempt of a job without differential privacy: it is never made twice either."""
        with self.chain.transaction():
            entry = Entry(
                "attempt",
                self._now(),
                job,
                self.silo,
                "",
                round,
                attempt,
                None,
                1.0,
                roster=list(roster),
            )
            if self._charges(job, "attempt", round, attempt)[1]:
                raise LedgerError(
                    f"attempt {attempt} of round {round} was made already",
                    "An attempt is never run twice; a new one needs a new number.",
                )
            self.append_within(entry)

    def charge(
        self,
        job: str,
        round: int,
        attempt: int,
        accountant: Accountant,
        records: Records = "",
        roster: Sequence[str] = (),
        dataset: Dataset | None = None,
    ) -> float:
        """Commit one round's spend to disk, before anything is trained for it.

        Args:
            roster: the silos of this attempt.
            dataset: by default the one that was reserved, under that name alone.

        Returns:
            Epsilon of the job after this round, at the plan's delta.

        Raises:
            BudgetExceeded: the round would pass the reserved epsilon, or the lifetime limit;
                nothing was charged.
            LedgerError: nothing is reserved, this attempt is charged already, or the disk fails.
        """
        kind: Kind = "charge held-out" if records else "charge"
        with self.chain.transaction():
            reserved = self._reserved(job, f"reserve {records}".strip())
            if reserved is None:
                raise LedgerError(f"job {job} has reserved no plan in {self.path}")
            charges, again = self._charges(job, kind, round, attempt)
            if again:
                raise LedgerError(
                    f"attempt {attempt} of round {round} is charged already",
                    "An attempt is never run twice; a new one needs a new number.",
                )
            epsilon, budget = accountant.epsilon_after(charges + 1), reserved.epsilon or 0.0
            if epsilon > budget:
                raise BudgetExceeded(
                    f"round {round} would spend epsilon {epsilon:.4g}"
                    f"{' of held-out records' if records else ''}, above the budget of "
                    f"{budget:g} at delta {reserved.delta:g}",
                    f"Spent so far: {accountant.epsilon_after(charges):.4g}. Nothing was trained "
                    "or sent for this round.",
                )
            limit = self.limit()
            entry = Entry(
                kind,
                self._now(),
                job,
                self.silo,
                reserved.dataset,
                round,
                attempt,
                epsilon,
                reserved.delta,
                roster=list(roster),
            )
            spent_by = dataset or Dataset(reserved.dataset)
            if limit and not limit.holds(self._spent(spent_by, also=entry)):
                raise BudgetExceeded(
                    f"round {round} would pass the lifetime limit of epsilon {limit.epsilon:g} at "
                    f"delta {limit.delta:g} in {self.path}",
                    "The limit was lowered, or more was spent than this plan foresaw. Nothing was "
                    "trained or sent for this round.",
                )
            self.append_within(entry)
        return epsilon

    def lifetime(self, dataset: Dataset) -> Lifetime:
        """What this dataset has spent in all jobs so far; epsilon is infinite after a job
        without differential privacy. Plans reserved but never charged do not count: nothing
        was released for them. Of a job's training and held-out records the larger spend counts:
        no record is both. Exact held-out counts are in no budget, and not counted."""
        kinds = ("charge", "charge held-out", "unprotected")
        jobs: dict[str, tuple[float, float]] = {}
        for e in self.entries():
            if e.kind in kinds and e.dataset in dataset:
                epsilon, delta = jobs.get(e.job, (0.0, 0.0))
                spent = math.inf if e.epsilon is None else e.epsilon
                jobs[e.job] = max(epsilon, spent), max(delta, e.delta)
        return Lifetime(
            len(jobs), sum(e for e, _ in jobs.values()), sum(d for _, d in jobs.values())
        )

    def limit(self) -> Limit | None:
        """The lifetime budget in force, for each dataset, or None."""
        with self.chain.explained():
            found = self.chain.db.execute(
                "SELECT content FROM entries WHERE json_extract(content, '$.kind') = 'limit' "
                "ORDER BY number DESC LIMIT 1"
            ).fetchone()
        if found is None:
            return None
        entry = json.loads(found[0])
        return Limit(entry["epsilon"], entry["delta"])

    def set_limit(self, limit: Limit) -> None:
        """Put a lifetime budget in force. A later one replaces it: what was spent stays spent."""
        with self._appending(""):
            self.append_within(
                Entry("limit", self._now(), "", self.silo, "", 0, 0, limit.epsilon, limit.delta)
            )

    def lifetime_epsilon(self, dataset: Dataset, delta: float) -> float:
        """The least limit at that delta that covers what the dataset has spent."""
        if math.isinf(self.lifetime(dataset).epsilon):
            return math.inf
        return Limit(0.0, delta).epsilon_of(self._spent(dataset))

    def _spent(self, dataset: Dataset, also: Entry | None = None) -> Divergences:
        """Renyi divergences of all charges of the dataset, and of one more, `also`.

        Of each job the greater ones of training and of held-out records: a record is in one.
        """
        spent, plans = nothing(), {}
        jobs: dict[str, dict[str, Divergences]] = {}
        for entry in [*self.entries(), *([also] if also else [])]:
            records = "held-out" if entry.kind.endswith("held-out") else ""
            if entry.kind.startswith("reserve") and entry.plan is not None:
                plans[entry.job, records] = round_divergences(_plan_of(entry.plan))
            if entry.dataset in dataset and entry.kind.startswith("charge"):
                of_job = jobs.setdefault(entry.job, {})
                of_job[records] = of_job.get(records, nothing()) + plans[entry.job, records]
            if entry.dataset in dataset and entry.kind == "unprotected":
                spent = spent + math.inf
        for of_job in jobs.values():
            spent = spent + np.maximum(*[of_job.get(r, nothing()) for r in ("", "held-out")])
        return spent

    def require_lifetime(
        self, dataset: Dataset, plan: PrivacyPlan, held_out: PrivacyPlan | None = None
    ) -> None:
        """Raises LedgerError if those plans would pass the lifetime limit in force."""
        limit = self.limit()
        if limit is None:
            return
        spent = self._spent(dataset)
        needed = [
            min(one.rounds, one.rounds_within_budget) * round_divergences(one)
            for one in (plan, held_out)
            if one
        ]
        if limit.holds(spent + np.max(needed, axis=0)):
            return
        if not math.isfinite(spent[0]):
            raise LedgerError(
                f"a job has trained on this table without differential privacy: the lifetime limit "
                f"of {self.path} cannot hold",
                "Use another table.",
            )
        left = min(limit.rounds_left(spent, plan), plan.rounds)
        raise LedgerError(
            f"the plan would pass the lifetime limit of epsilon {limit.epsilon:g} at delta "
            f"{limit.delta:g} in {self.path}; past jobs spent {limit.epsilon_of(spent):.3g} of it",
            "The training would fit: lower privacy.metrics_epsilon."
            if left == plan.rounds
            else f"At this noise {left} rounds still fit."
            if left
            else "Nothing of this plan fits.",
        )

    def close(self) -> None:
        """Close the database."""
        self.chain.close()

    def _reserved(self, job: str, kind: str) -> Entry | None:
        found = self.chain.db.execute(
            f"SELECT content FROM entries WHERE {_OF_JOB} ORDER BY number LIMIT 1", (job, kind)
        ).fetchone()
        return Entry(**json.loads(found[0])) if found else None

    def _charges(self, job: str, kind: str, round: int, attempt: int) -> tuple[int, bool]:
        """How many there are, and whether that attempt is among them. Counted where they are: a long job's
        entries would take more memory, and longer, with every round."""
        count, again = self.chain.db.execute(
            "SELECT count(*), total(json_extract(content, '$.round') = ? AND "
            f"json_extract(content, '$.attempt') = ?) FROM entries WHERE {_OF_JOB}",
            (round, attempt, job, kind),
        ).fetchone()
        return count, bool(again)

    @contextmanager
    def _appending(self, job: str) -> Iterator[list[Entry]]:
        """Check and append in one transaction that no other process can interleave with."""
        with self.chain.transaction():
            yield self.entries(job)


def _plan_of(recorded: dict[str, Any]) -> PrivacyPlan:
    names = {field.name for field in fields(PrivacyPlan)}
    return PrivacyPlan(**{key: value for key, value in recorded.items() if key in names})

"""What a silo's datasets have spent in all jobs, and what their lifetime limit leaves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blindsum.actors.books import LEDGER
from blindsum.actors.vault import open_identity
from blindsum.platform.job.owner import Owner
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.state.ledger_entries import Dataset

DEFAULT_DELTA = 1e-5
"""The delta at which spend is shown where there is no limit."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One dataset's budget over all jobs.

    Attributes:
        jobs: how many jobs were charged.
        spent: the smallest lifetime epsilon, at `delta`, that covers them; infinite after a job
            without differential privacy.
        limit: the lifetime epsilon that the owner allows; None without a limit.
    """

    dataset: str
    jobs: int
    spent: float
    limit: float | None
    delta: float

    @property
    def left(self) -> float | None:
        """The epsilon that the limit leaves; None without a limit."""
        return None if self.limit is None else max(0.0, self.limit - self.spent)

    @property
    def past(self) -> str:
        """What past jobs spent, in words."""
        if not self.jobs:
            return "no job has charged it"
        count = "1 job" if self.jobs == 1 else f"{self.jobs} jobs"
        return f"epsilon {_number(self.spent)} spent by {count}, at delta {self.delta:g}"

    @property
    def line(self) -> str:
        """All of it, in words."""
        if self.limit is None:
            return f"{self.past}; no lifetime limit (blindsum ledger limit)"
        return f"{self.past}; {self.left:.4g} of {self.limit:g} left"


@contextmanager
def open_ledger(owner: Owner, silo: str) -> Iterator[Ledger | None]:
    """Open a silo's ledger; None if no job has used it yet.

    Raises:
        KeyRefused, LedgerError: it cannot be used or trusted.
    """
    if not (owner.state / LEDGER).exists():
        yield None
        return
    ledger = Ledger(owner.state / LEDGER, silo, open_identity(owner.state))
    try:
        yield ledger
    finally:
        ledger.close()


def known_dataset(ledger: Ledger, name: str, fingerprints: Collection[str] = ()) -> Dataset:
    """Return a dataset as the ledger knows it: by the owner's name for it, and by every other name
    under which a job used the same records."""
    known = frozenset(fingerprints) | ledger.names_of(fingerprints)
    return Dataset(f"dataset:{name}", known)


def budget(ledger: Ledger | None, name: str, fingerprints: Collection[str] = ()) -> Budget:
    """Return the budget of the dataset with the owner's name for it.

    Args:
        fingerprints: those of its records, if they were read.
    """
    if ledger is None:
        return Budget(dataset=name, jobs=0, spent=0.0, limit=None, delta=DEFAULT_DELTA)
    limit, dataset = ledger.limit(), known_dataset(ledger, name, fingerprints)
    delta = limit.delta if limit else DEFAULT_DELTA
    return Budget(
        dataset=name,
        jobs=ledger.lifetime(dataset).jobs,
        spent=ledger.lifetime_epsilon(dataset, delta),
        limit=limit.epsilon if limit else None,
        delta=delta,
    )


def budgets(owner: Owner, silo: str) -> list[Budget]:
    """Return the budget of each dataset in the owner's file. Raises as `open_ledger`."""
    with open_ledger(owner, silo) as ledger:
        return [budget(ledger, name) for name in owner.file.datasets]


def _number(epsilon: float) -> str:
    return f"{epsilon:.4g}" if math.isfinite(epsilon) else "unbounded"

"""What a silo's data has spent: SQLite, append-only, hash-chained, in the silo's own folder.

Order of every round: check, commit the charge to disk, and only then train and send. A crash
at any point can only over-count. Nothing is ever refunded.

An entry's hash covers its content and the hash before it, so that damage, and a change by
someone who does not rewrite all that follows, is found when the ledger is next opened. The
hashes have no key: whoever can write the file can make a new chain, or cut off its newest
entries, unseen (SECURITY.md). A dataset is known by the columns that the job uses.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from blindsum.platform.errors import BudgetExceeded, LedgerError
from blindsum.platform.privacy import ACCOUNTANT, UNIT, Accountant, PrivacyPlan

Kind = Literal["reserve", "charge", "unprotected"]
_FIRST = "0" * 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
) STRICT;
CREATE INDEX IF NOT EXISTS by_job ON entries (json_extract(content, '$.job'));
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `time` is seconds since 1970, UTC."""

    kind: Kind
    time: float
    job: str
    silo: str
    dataset: str
    round: int
    attempt: int
    epsilon: float | None  # None: without bound
    delta: float
    plan: dict[str, Any] | None = None

    def canonical(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Lifetime:
    """What a dataset has spent over all jobs, by basic composition (Dwork and Roth, 2014,
    theorem 3.16): epsilons and deltas add up."""

    jobs: int
    epsilon: float
    delta: float


class Ledger:
    """One silo's ledger.

    Args:
        path: the SQLite file; made with mode 0600 if missing.
        now: the clock, seconds since 1970.

    Raises:
        LedgerError: the file cannot be opened, is not a ledger, or its chain is broken.
    """

    def __init__(self, path: Path, silo: str, now: Callable[[], float] = time.time) -> None:
        self.path, self._silo, self._now = path, silo, now
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            # An actor's methods may change threads; Ray still runs them one at a time.
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")  # one flush to disk per charge
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self.verify()

    def entries(self, job: str | None = None) -> list[Entry]:
        """All entries, or one job's, oldest first."""
        where = "WHERE json_extract(content, '$.job') = ? " if job else ""
        with self._explained():
            rows = self._db.execute(
                f"SELECT content FROM entries {where}ORDER BY number", (job,) if job else ()
            ).fetchall()
        return [Entry(**json.loads(content)) for (content,) in rows]

    def reserve(self, job: str, dataset: str, plan: PrivacyPlan) -> None:
        """Record the whole plan before the job's first charge.

        Raises:
            LedgerError: this job has reserved already.
        """
        with self._appending(job) as entries:
            if entries:
                raise LedgerError(
                    f"job {job} has already reserved its plan in {self.path}",
                    "A job's number is used once: start a new run.",
                )
            self._append(
                Entry(
                    "reserve", self._now(), job, self._silo, dataset, 0, 0,
                    plan.epsilon, plan.delta,
                    asdict(plan) | {"accountant": ACCOUNTANT, "unit": UNIT},
                )
            )  # fmt: skip

    def unprotected(self, job: str, dataset: str) -> None:
        """Record that a job trains on this dataset without differential privacy.

        Its spend has no bound, and no later job can make it smaller.
        """
        with self._appending(job):
            self._append(
                Entry("unprotected", self._now(), job, self._silo, dataset, 0, 0, None, 1.0)
            )

    def charge(self, job: str, round: int, attempt: int, accountant: Accountant) -> float:
        """Commit one round's spend to disk, before anything is trained for it.

        Returns:
            Epsilon of the job after this round, at the plan's delta.

        Raises:
            BudgetExceeded: the round would pass the reserved epsilon; nothing was charged.
            LedgerError: nothing is reserved, this attempt is charged already, or the disk fails.
        """
        with self._appending(job) as of_job:
            if not of_job or of_job[0].kind != "reserve":
                raise LedgerError(f"job {job} has reserved no plan in {self.path}")
            if any((e.round, e.attempt) == (round, attempt) for e in of_job):
                raise LedgerError(
                    f"attempt {attempt} of round {round} is charged already",
                    "An attempt is never run twice; a new one needs a new number.",
                )
            reserved, charges = of_job[0], len(of_job) - 1
            epsilon, budget = accountant.epsilon_after(charges + 1), reserved.epsilon or 0.0
            if epsilon > budget:
                raise BudgetExceeded(
                    f"round {round} would spend epsilon {epsilon:.4g}, above the budget of "
                    f"{budget:g} at delta {reserved.delta:g}",
                    f"Spent so far: {accountant.epsilon_after(charges):.4g}. Nothing was trained "
                    "or sent for this round.",
                )
            self._append(
                Entry(
                    "charge", self._now(), job, self._silo, reserved.dataset, round, attempt,
                    epsilon, reserved.delta,
                )
            )  # fmt: skip
        return epsilon

    def lifetime(self, dataset: str) -> Lifetime:
        """What this dataset has spent in all jobs so far; epsilon is infinite after a job
        without differential privacy. Plans reserved but never charged do not count: nothing
        was released for them."""
        charges = [e for e in self.entries() if e.kind != "reserve" and e.dataset == dataset]
        last = {e.job: e for e in charges}.values()
        epsilon = sum(math.inf if e.epsilon is None else e.epsilon for e in last)
        return Lifetime(len(last), epsilon, sum(e.delta for e in last))

    def verify(self) -> None:
        """Check every hash of the chain.

        Raises:
            LedgerError: names the first entry that does not fit.
        """
        previous = _FIRST
        with self._explained():
            rows = self._db.execute(
                "SELECT number, content, previous, hash FROM entries ORDER BY number"
            ).fetchall()
        for expected, (number, content, before, hash_) in enumerate(rows, 1):
            if (number, before, hash_) != (expected, previous, _hash(content, previous)):
                raise LedgerError(
                    f"entry {expected} of the ledger {self.path} was changed, removed or moved",
                    "Restore the ledger from a backup; without it the spend cannot be known.",
                )
            previous = hash_

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _appending(self, job: str) -> Iterator[list[Entry]]:
        """Check and append in one transaction that no other process can interleave with."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self.entries(job)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _append(self, entry: Entry) -> None:
        last = self._db.execute(
            "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, _FIRST)
        content = entry.canonical()
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            (last[0] + 1, content, last[1], _hash(content, last[1])),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"the ledger {self.path} cannot be used: {error}",
                "Check that the disk has room and the folder is writable, and that the file is "
                "this silo's ledger. Without it nothing is trained or sent.",
            ) from None


def _hash(content: str, previous: str) -> str:
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()

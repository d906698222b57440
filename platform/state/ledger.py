"""The ledger: an append-only, hash-chained, signed record of what a silo's data has spent.

The order in every round is: check, commit the charge to disk, and only then train and send. A crash
at any point can only lead to over-counting. Nothing is ever refunded.

Entries are signed by the silo's identity. If anyone without its keys changes an entry, this is
detected when the ledger is next opened. Entries cut off from the end are detected by comparing the
head with a copy kept elsewhere: every run records it in MLflow, as of its last completed round. A
dataset is identified by the columns that the job uses.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from blindsum.platform.errors import BudgetExceeded, LedgerError
from blindsum.platform.privacy.accounting import ACCOUNTANT
from blindsum.platform.privacy.lifetime_limit import Divergences, Limit
from blindsum.platform.privacy.plan import UNIT, Accountant, PrivacyPlan
from blindsum.platform.state.ledger_entries import (
    EARLIER,
    Attempt,
    Dataset,
    Entry,
    Kind,
    Lifetime,
    Records,
)
from blindsum.platform.state.ledger_spend import (
    composed,
    plan_of,
    require_within,
    spent_divergences,
)
from blindsum.platform.state.signed_log import Chain, Signer

_OF_JOB = "json_extract(content, '$.job') = ? AND json_extract(content, '$.kind') = ?"


class Ledger:
    """One silo's ledger.

    Args:
        path: the SQLite file; created with mode 0600 if missing.
        signer: the silo's identity.
        now: the clock, seconds since 1970.
        adopt: continue under this identity although another one signed the entries so far; the
            ledger records the change.

    Raises:
        LedgerError: the file cannot be opened, is not a ledger, has a broken chain, or its newest
            entry is not signed by this identity.
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
                # Records the number of unsigned entries: no other entry may lose its signature.
                unsigned = state.unsigned if not state.signers else 0
                self.append(Entry("identity", now(), "", silo, "", unsigned, 0, 0.0, 0.0))
        elif state.entries and signer.public not in state.signers[-1:]:
            how = "signed by another identity than this silo's" if state.signers else "not signed"
            raise LedgerError(
                f"the newest entry of the ledger {path} is {how}",
                "Restore that identity, or the ledger, from a backup. If the identity was replaced "
                "on purpose, or an earlier version wrote the ledger: blindsum ledger adopt.",
            )

    def entries(self, job: str | None = None) -> list[Entry]:
        """Return all entries, or one job's, oldest first."""
        where = "WHERE json_extract(content, '$.job') = ? " if job else ""
        with self.chain.explained():
            rows = self.chain.db.execute(
                f"SELECT content FROM entries {where}ORDER BY number", (job,) if job else ()
            ).fetchall()
        return [Entry(**json.loads(content)) for (content,) in rows]

    def of_kind(self, kind: Kind) -> list[Entry]:
        """Return all entries of one kind, oldest first."""
        with self.chain.explained():
            rows = self.chain.db.execute(
                "SELECT content FROM entries WHERE json_extract(content, '$.kind') = ? "
                "ORDER BY number",
                (kind,),
            ).fetchall()
        return [Entry(**json.loads(content)) for (content,) in rows]

    def names_of(self, fingerprints: Collection[str]) -> frozenset[str]:
        """Return every name under which a job began on a table with one of those fingerprints."""
        begun = [e for kind in ("reserve", "unprotected") for e in self.of_kind(kind)]
        return frozenset(
            e.dataset for e in begun if e.plan and e.plan.get("fingerprint") in fingerprints
        )

    def append(self, entry: Entry) -> None:
        """Write one entry to disk."""
        with self.chain.transaction():
            self.chain.append(entry.canonical())

    def reserve(
        self,
        job: str,
        dataset: Dataset,
        plan: PrivacyPlan,
        held_out: PrivacyPlan | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Reserve the whole plan, and that for held-out records, before the job's first charge.

        Args:
            first: called inside the transaction, before anything is written; it uses an approval.

        Raises:
            LedgerError: this job has already reserved its plan, or the plan would exceed the
                lifetime limit.
        """
        with self._appending(job) as entries:
            self.require_lifetime(dataset, plan, held_out)
            if entries:
                raise LedgerError(
                    f"job {job} has already reserved its plan in {self.path}",
                    "A run reserves its plan once: start a new run.",
                )
            first()
            reserved: list[tuple[Kind, PrivacyPlan]] = [("reserve", plan)]
            reserved += [("reserve held-out", held_out)] if held_out else []
            for kind, one in reserved:
                self.append(
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
        """Check that an interrupted job may be resumed, and return its last recorded attempt.

        Returns:
            None if the job has not reserved its plan yet.

        Raises:
            LedgerError: the job began on another table or with another plan.
        """
        of_job = [e for e in self.entries(job) if e.kind != "begun"]
        if not of_job:
            return None
        first = of_job[0]
        same = first.kind == ("reserve" if plan else "unprotected") and first.dataset in dataset
        if not same or (plan and first.plan is not None and plan_of(first.plan) != plan):
            raise LedgerError(
                f"job {job} began on another table, or with another plan",
                "Restore the table and the job file as they were, or start a new run.",
            )
        noted = [e for e in of_job if e.kind in ("charge", "charge held-out", "attempt")]
        if not noted:
            return Attempt()
        last = max(noted, key=lambda e: (e.round, e.attempt))
        return Attempt(last.round, last.attempt, tuple(last.roster or ()))

    def unprotected(
        self, job: str, dataset: Dataset, first: Callable[[], None] = lambda: None
    ) -> None:
        """Record that a job trains on this dataset without differential privacy.

        Its spend is unbounded, whatever later jobs do.

        Raises:
            LedgerError: the silo has a lifetime limit.
        """
        with self._appending(job):
            if limit := self.limit():
                raise LedgerError(
                    f"{self.path} limits the lifetime epsilon to {limit.epsilon:g}, but the "
                    "epsilon of a job without differential privacy is unbounded",
                    "Set privacy.noise to local or shared.",
                )
            first()
            self.append(
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
        """Record an attempt of a job without differential privacy.

        Raises:
            LedgerError: this attempt was recorded already; no attempt is run twice.
        """
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
                    f"attempt {attempt} of round {round} was already made",
                    "An attempt is never run twice: a further attempt needs a new number.",
                )
            self.append(entry)

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
            dataset: by default the reserved dataset, under that name alone.

        Returns:
            The job's epsilon after this round, at the plan's delta.

        Raises:
            BudgetExceeded: the round would exceed the reserved epsilon or the lifetime limit;
                nothing was charged.
            LedgerError: no plan is reserved, this attempt is already charged, or the disk fails.
        """
        kind: Kind = "charge held-out" if records else "charge"
        with self.chain.transaction():
            reserved = self._reserved(job, f"reserve {records}".strip())
            if reserved is None:
                raise LedgerError(f"job {job} has reserved no plan in {self.path}")
            charges, again = self._charges(job, kind, round, attempt)
            if again:
                raise LedgerError(
                    f"attempt {attempt} of round {round} is already charged",
                    "An attempt is never run twice: a further attempt needs a new number.",
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
                    f"round {round} would exceed the lifetime limit of epsilon {limit.epsilon:g} "
                    f"at delta {limit.delta:g} in {self.path}",
                    "The limit was lowered, or more was spent than this plan foresaw. Nothing was "
                    "trained or sent for this round.",
                )
            self.append(entry)
        return epsilon

    def lifetime(self, dataset: Dataset) -> Lifetime:
        """Return what this dataset has spent in all jobs so far (`composed`)."""
        return composed(self.entries(), dataset)

    def limit(self) -> Limit | None:
        """Return the lifetime limit in force for each dataset, or None."""
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
        """Put a lifetime limit in force, in place of an earlier one. Past spend still counts."""
        with self._appending(""):
            self.append(
                Entry("limit", self._now(), "", self.silo, "", 0, 0, limit.epsilon, limit.delta)
            )

    def lifetime_epsilon(self, dataset: Dataset, delta: float) -> float:
        """Return the smallest limit at that delta that covers what the dataset has spent."""
        if math.isinf(self.lifetime(dataset).epsilon):
            return math.inf
        return Limit(0.0, delta).epsilon_of(self._spent(dataset))

    def _spent(self, dataset: Dataset, also: Entry | None = None) -> Divergences:
        return spent_divergences([*self.entries(), *([also] if also else [])], dataset)

    def require_lifetime(
        self, dataset: Dataset, plan: PrivacyPlan, held_out: PrivacyPlan | None = None
    ) -> None:
        """Raise LedgerError if those plans would exceed the lifetime limit in force."""
        limit = self.limit()
        if limit is not None:
            require_within(limit, self._spent(dataset), plan, held_out, self.path)

    def close(self) -> None:
        """Close the database."""
        self.chain.close()

    def _reserved(self, job: str, kind: str) -> Entry | None:
        found = self.chain.db.execute(
            f"SELECT content FROM entries WHERE {_OF_JOB} ORDER BY number LIMIT 1", (job, kind)
        ).fetchone()
        return Entry(**json.loads(found[0])) if found else None

    def _charges(self, job: str, kind: str, round: int, attempt: int) -> tuple[int, bool]:
        """Return the number of charges, and whether that attempt is among them.

        SQLite counts them: loading a long job's entries would take more memory and time with every
        round.
        """
        count, again = self.chain.db.execute(
            "SELECT count(*), total(json_extract(content, '$.round') = ? AND "
            f"json_extract(content, '$.attempt') = ?) FROM entries WHERE {_OF_JOB}",
            (round, attempt, job, kind),
        ).fetchone()
        return count, bool(again)

    @contextmanager
    def _appending(self, job: str) -> Iterator[list[Entry]]:
        """Yield the job's entries inside one transaction, which no other process can interleave
        with."""
        with self.chain.transaction():
            yield self.entries(job)

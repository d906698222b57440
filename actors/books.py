"""What a silo writes down in its own folder: the ledger, what it charges there, and the audit log."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from blindsum.actors.vault import open_identity
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity, fingerprint
from blindsum.platform.approval import job_digest
from blindsum.platform.audit_log import AuditLog
from blindsum.platform.errors import BlindsumError, LedgerError
from blindsum.platform.job import Job
from blindsum.platform.ledger import Ledger, Lifetime
from blindsum.platform.privacy import Accountant, PrivacyPlan, metrics_plan
from blindsum.platform.structured_log import Log

PRECOMPUTED = 300
"""Rounds whose epsilon is computed at the start; later ones cost about 25 ms each."""

LEDGER, AUDIT_LOG = "ledger.sqlite", "audit.sqlite"


class Books:
    """One silo's, in one run.

    Args:
        plan: of the training records; None without differential privacy.
        resumed: the run was interrupted, and may have charged already.
    """

    def __init__(
        self, job: Job, run: str, silo: str, state: Path, plan: PrivacyPlan | None, resumed: bool
    ) -> None:
        self._job, self._run, self._silo, self._state = job, run, silo, state
        self._resumed = resumed
        held_out = metrics_plan(job)
        self._plan = plan if job.private else None
        self._held_out = held_out if job.private else None
        self._of_records = Accountant(self._plan) if self._plan else None
        self._of_held_out = Accountant(self._held_out) if self._held_out else None
        self.ledger: Ledger | None = None
        self._audit: AuditLog | None = None
        self._log = Log(job=job.name, run=run, silo=silo)
        self._reserved = False

    @property
    def path(self) -> Path:
        return self._state / LEDGER

    def inspect(self, dataset: str) -> tuple[Lifetime, tuple[int, int]]:
        """What past jobs spent on a table, and the last round and attempt that this run charged: (0, 0)
        if none. Writes nothing.

        Raises:
            LedgerError: the plan would pass the lifetime limit, or the ledger cannot be trusted.
        """
        if not self.path.exists():
            return Lifetime(0, 0.0, 0.0), (0, 0)
        opened = Ledger(self.path, self._silo, open_identity(self._state))
        try:
            begun = (0, 0)
            if self._resumed:
                begun = opened.goes_on(self._run, dataset, self._plan) or begun
            elif self._plan:
                opened.require_lifetime(dataset, self._plan, self._held_out)
            return opened.lifetime(dataset), begun
        finally:
            opened.close()

    def open(self, identity: Identity) -> None:
        """Open ledger and audit log for the run."""
        if self.ledger is None:
            self.ledger = Ledger(self.path, self._silo, identity)
            self._audit = AuditLog(self._state / AUDIT_LOG, self._silo, identity)

    def join(self, identities: dict[str, bytes], dataset: str) -> None:
        """A key ceremony has ended: note who was in it, and reserve the whole plan if the run is new."""
        if self._of_records and self._plan:
            # Ahead of the rounds: none of them should wait for a composition.
            for rounds in range(1, min(self._plan.rounds_within_budget, PRECOMPUTED) + 1):
                self._of_records.epsilon_after(rounds)
        ledger = self._opened()
        known = {name: fingerprint(identity) for name, identity in identities.items()}
        digest = job_digest(self._job)
        self._note("joined", job_digest=digest, roster=list(known), identities=known)
        if self._reserved or (self._resumed and ledger.goes_on(self._run, dataset, self._plan)):
            return  # rotated keys, or an interrupted run: the plan is reserved already
        if self._plan:
            ledger.reserve(self._run, dataset, self._plan, self._held_out)
        else:
            ledger.unprotected(self._run, dataset)
        self._reserved = True

    def charge(self, exchange: Exchange) -> tuple[float | None, float | None]:
        """Epsilon so far of training records, and of held-out ones where they have a budget."""
        ledger = self._opened()
        attempt = self._run, exchange.round, exchange.attempt
        epsilon = held_out = None
        if self._of_records is not None:
            epsilon = ledger.charge(*attempt, self._of_records)
        try:
            if self._of_held_out is not None and self._job.evaluates(exchange.round):
                held_out = ledger.charge(*attempt, self._of_held_out, "held-out")
        finally:
            self._note("charged", exchange, epsilon=epsilon, held_out=held_out, ledger=self.head)
        return epsilon, held_out

    def sends(self, exchange: Exchange) -> None:
        """Note an upload, before any of it leaves.

        Raises:
            LedgerError: it cannot be noted; nothing is sent.
        """
        self._note(
            "sent", exchange, purpose=exchange.purpose, digest=exchange.digest.hex(),
            roster=list(exchange.roster),
        )  # fmt: skip

    def refuses(self, error: BlindsumError, round: int, attempt: int) -> None:
        """Note why this silo did not do what it was told. That must not hide the reason itself."""
        with suppress(BlindsumError):
            if self._audit is None:
                identity = open_identity(self._state)
                self._audit = AuditLog(self._state / AUDIT_LOG, self._silo, identity)
            kind = type(error).__name__
            self._audit.note("refused", self._run, round, attempt, error=kind, said=error.what)
            self._log.say("refused", round=round, attempt=attempt, error=kind, said=error.what)

    @property
    def head(self) -> str:
        """The ledger's."""
        return self.ledger.chain.head() if self.ledger else ""

    def _note(self, kind: str, exchange: Exchange | None = None, **detail: object) -> None:
        round, attempt = (exchange.round, exchange.attempt) if exchange else (0, 0)
        if self._audit is None:
            raise LedgerError("an event came before the audit log was opened")
        self._audit.note(kind, self._run, round, attempt, **detail)  # type: ignore[arg-type]
        self._log.say(kind, round=round, attempt=attempt, **detail)

    def _opened(self) -> Ledger:
        if self.ledger is None:
            raise LedgerError("training was asked for before the ledger was opened")
        return self.ledger

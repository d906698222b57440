"""The books that a silo keeps in its own folder: the ledger with its charges, and the audit log."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from blindsum.actors.vault import open_identity
from blindsum.he.exchange import Exchange
from blindsum.he.identity import fingerprint
from blindsum.platform.errors import BlindsumError, LedgerError
from blindsum.platform.events import Log
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import Accountant, PrivacyPlan, metrics_plan
from blindsum.platform.state.approval import Approval, Approvals, job_digest
from blindsum.platform.state.audit_log import AuditLog
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.state.ledger_entries import Attempt, Dataset, Lifetime
from blindsum.platform.state.signed_log import signed_together

LEDGER, AUDIT_LOG = "ledger.sqlite", "audit.sqlite"


class Books:
    """One silo's ledger and audit log in one run. Both are opened at once.

    Args:
        state: the folder with ledger, identity and approvals.
        resumed: the run was interrupted and may have charged already.

    Raises:
        KeyRefused, LedgerError: identity, ledger or audit log cannot be used or trusted.
    """

    def __init__(self, job: Job, run: str, silo: str, state: Path, resumed: bool) -> None:
        self._job, self._run, self._silo, self._state = job, run, silo, state
        self._resumed = resumed
        self._plan: PrivacyPlan | None = None
        self._held_out: PrivacyPlan | None = None
        self._of_records: Accountant | None = None
        self._of_held_out: Accountant | None = None
        self._dataset = Dataset("")
        self._approved = False
        self._log = Log(job=job.name, run=run, silo=silo)
        self.joined = False
        self.identity = open_identity(state)
        self._audit = AuditLog(state / AUDIT_LOG, silo, self.identity)
        self.ledger = Ledger(state / LEDGER, silo, self.identity)

    def begin_inspection(self) -> None:
        """Note in the audit log that a job asks for this silo's table, before the table is read.

        Raises:
            LedgerError: the note cannot be written; nothing is read.
        """
        self._note("inspected", job_digest=job_digest(self._job))

    def approved(self) -> Approval:
        """Return the owner's approval of this run. Raises ConsentError if there is none."""
        self._approved = True
        return Approvals(self.ledger).of(self._run, self._job)

    def inspect(
        self, name: str | None, fingerprints: tuple[str, ...], plan: PrivacyPlan | None
    ) -> tuple[Lifetime, Attempt]:
        """Return what past jobs spent on a table, and the last attempt that this run noted. This
        spends nothing.

        Args:
            name: the owner's name for the table; None without an owner's file.
            fingerprints: fingerprints of the table's records, the newest first.
            plan: the plan for the training records; None without differential privacy.

        Raises:
            LedgerError: the plan would exceed the lifetime limit, or the ledger cannot be trusted.
        """
        self._plan = plan if self._job.private else None
        self._held_out = metrics_plan(self._job) if self._job.private else None
        self._of_records = Accountant(self._plan) if self._plan else None
        self._of_held_out = Accountant(self._held_out) if self._held_out else None
        known = {*fingerprints, *self.ledger.names_of(fingerprints)}
        own = f"dataset:{name}" if name else fingerprints[0]
        self._dataset = Dataset(own, frozenset(known), fingerprints[0])
        begun = None
        if self._resumed:
            begun = self.ledger.goes_on(self._run, self._dataset, self._plan)
            self.joined = begun is not None
        elif self._plan:
            self.ledger.require_lifetime(self._dataset, self._plan, self._held_out)
        return self.ledger.lifetime(self._dataset), begun or Attempt()

    def join(self, identities: dict[str, bytes]) -> None:
        """Note the participants of a completed key ceremony. If the run is new, use up its approval
        and reserve the whole plan, in one transaction."""
        if self._of_records and self._plan:
            self._of_records.precompute()
        known = {name: fingerprint(identity) for name, identity in identities.items()}
        digest = job_digest(self._job)
        self._note("joined", job_digest=digest, roster=list(known), identities=known)
        if self.joined:
            return  # after new keys, or in a resumed run, the plan is already reserved
        if self._plan:
            self.ledger.reserve(
                self._run, self._dataset, self._plan, self._held_out, self._use_approval
            )
        else:
            self.ledger.unprotected(self._run, self._dataset, self._use_approval)
        self.joined = True

    def _use_approval(self) -> None:
        if self._approved:
            Approvals(self.ledger).use(self._run, self._job)

    def charge(self, exchange: Exchange) -> tuple[float | None, float | None]:
        """Charge an attempt, and note in the audit log that its upload may leave, before anything
        is computed for it. Returns epsilon so far, for training records and for held-out records;
        None for records that the attempt does not charge.

        Raises:
            BudgetExceeded: the charge would exceed the budget.
            LedgerError: the charge or the note cannot be committed, or this silo has not joined the
                run.
        """
        if not self.joined:
            raise LedgerError("training was requested before this silo joined the run")
        attempt = self._run, exchange.round, exchange.attempt
        epsilon = held_out = None
        # One transaction each, and one signature: all of it is written, or nothing is computed.
        with signed_together(self.ledger.chain, self._audit.chain):
            if exchange.purpose == "update" and self._of_records:
                epsilon = self.ledger.charge(
                    *attempt, self._of_records, "", exchange.roster, self._dataset
                )
            elif exchange.purpose == "update":
                self.ledger.attempt(*attempt, exchange.roster)
            if self._of_held_out is not None and self._job.evaluates(exchange.round - 1):
                held_out = self.ledger.charge(
                    *attempt, self._of_held_out, "held-out", exchange.roster, self._dataset
                )
            charged = {"epsilon": epsilon, "held_out": held_out, "ledger": self.head}
            sent = {
                "purpose": exchange.purpose,
                "digest": exchange.digest.hex(),
                "roster": list(exchange.roster),
            }
            self._audit.note_all(*attempt, {"charged": charged, "sent": sent})
        for kind, detail in (("charged", charged), ("sent", sent)):
            self._log.say(kind, round=exchange.round, attempt=exchange.attempt, **detail)
        return epsilon, held_out

    def ended(self, round: int, model: str) -> None:
        """Note the model that this silo computed itself, for whoever has to confirm a release.

        Args:
            model: the digest of the parameters that it would release.

        Raises:
            LedgerError: the note cannot be written.
        """
        self._audit.note("ended", self._run, round, model=model)
        self._log.say("ended", round=round, attempt=0, model=model)

    def refuses(self, error: BlindsumError, round: int, attempt: int, logged: bool) -> None:
        """Note why this silo refused a request. A failure to note it must not hide the reason.

        Args:
            logged: whether the text may appear in the process's log, which others can read.
        """
        kind = type(error).__name__
        with suppress(BlindsumError):
            self._audit.note("refused", self._run, round, attempt, error=kind, said=error.what)
        said = {"said": error.what} if logged else {}
        self._log.say("refused", round=round, attempt=attempt, error=kind, **said)

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self.ledger.path

    @property
    def head(self) -> str:
        """The ledger's head: number and hash of its newest entry."""
        return self.ledger.chain.head()

    def _note(self, kind: Literal["inspected", "joined"], **detail: object) -> None:
        self._audit.note_all(self._run, 0, 0, {kind: detail})
        self._log.say(kind, round=0, attempt=0, **detail)

"""Approvals: which jobs a silo's owner has approved, for how many runs, and until when.

A silo receives its job from the driver. On a machine with an owner's file it takes part only in
jobs that its own ledger lists as approved, so that a driver cannot substitute other pins, another
budget, other folds or another roster for those that the owner has read. An approval is valid for a
number of runs until a date. Each run uses it once, in the ledger transaction that reserves the
run's plan.

An approval also covers the model's initial weights, by their digest: planted weights could separate
single records into gradients of their own (Fowl et al., ICLR 2022). It also covers the code of a
`model.factory`, whose files the silo keeps (`blindsum.platform.state.approved_code`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from blindsum.platform.errors import ConsentError
from blindsum.platform.job.schema import Job
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.state.ledger_entries import Entry

DEFAULT_DAYS = 30
MOST_RUNS = 1000


def job_digest(job: Job) -> str:
    """Return the SHA-256 over every setting of the job, defaults included, in hex."""
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True)
class Approval:
    """An approval by a silo's owner. It covers everything that decides what leaves the silo.

    `job` is the job's digest, `weights` the digest of its initial weights, `runs` the number of
    runs that may use the approval, `until` its end in seconds since 1970 (UTC), and `code` the
    SHA-256 of each file of a `model.factory`, by path. `dataset` is the fingerprint of the table's
    records, and `version` that of blindsum; both are empty in approvals by earlier versions.
    """

    id: str
    job: str
    name: str
    weights: str
    runs: int
    until: float
    code: Mapping[str, str] = field(default_factory=dict)
    dataset: str = field(default="", repr=False)
    version: str = ""


class Approvals:
    """The approvals in one silo's ledger.

    Args:
        now: the clock, seconds since 1970.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], float] = time.time) -> None:
        self._ledger, self._now = ledger, now

    def give(
        self,
        job: Job,
        weights: str,
        runs: int,
        until: float,
        code: Mapping[str, str] | None = None,
        id: str | None = None,
        dataset: str = "",
        version: str = "",
    ) -> Approval:
        """Write a new approval into the ledger, and return it.

        Args:
            weights: the digest of the model's initial weights.
            id: an id from `new_id`, if files have already been stored under it.
            dataset: the fingerprint of the table's records.
            version: blindsum's.

        Raises:
            ConsentError: no run could ever use it.
            LedgerError: it cannot be written.
        """
        require_useful(runs, until, self._now())
        found = Approval(
            id or new_id(),
            job_digest(job),
            job.name,
            weights,
            runs,
            until,
            dict(code or {}),
            dataset,
            version,
        )
        self._ledger.append(self._entry("approve", "", asdict(found)))
        return found

    def all(self) -> list[Approval]:
        """Return every approval in the ledger, oldest first."""
        return [Approval(**e.plan) for e in self._ledger.of_kind("approve") if e.plan]

    def revoke(self, approval: Approval) -> None:
        """Write into the ledger that an approval is no longer valid, whatever it still allowed.

        No run can start, be resumed or take a silo back under it. A run that has begun is not
        stopped by this.

        Raises:
            LedgerError: it cannot be written.
        """
        self._ledger.append(self._entry("revoke", "", {"approval": approval.id}))

    def revoked(self) -> frozenset[str]:
        """Return the ids of the approvals that were revoked."""
        entries = self._ledger.of_kind("revoke")
        return frozenset(str(e.plan["approval"]) for e in entries if e.plan)

    def standing(self, approval: Approval) -> str:
        """Return in words whether an approval is still valid: "valid", or why it is not."""
        if approval.id in self.revoked():
            return "revoked"
        if self._now() >= approval.until:
            return "expired"
        return "used up" if len(self.runs(approval)) >= approval.runs else "valid"

    def runs(self, approval: Approval) -> list[str]:
        """Return the runs that used an approval, oldest first."""
        begun = self._ledger.of_kind("begun")
        return [e.job for e in begun if e.plan and e.plan["approval"] == approval.id]

    def of(self, run: str, job: Job) -> Approval:
        """Return the approval that this run uses, or would use.

        Raises:
            ConsentError: the owner has not approved this job, or the approval is used up or has
                expired.
        """
        approved = [one for one in self.all() if one.job == job_digest(job)]
        revoked = self.revoked()
        of_job = [one for one in approved if one.id not in revoked]
        if approved and not of_job:
            raise ConsentError(
                f"this silo's owner has revoked the approval of job {job.name!r}",
                "If it is agreed again, run on the silo's machine: blindsum approve JOB --silo "
                "NAME.",
            )
        if begun := next((one for one in of_job if run in self.runs(one)), None):
            return begun
        if not of_job:
            raise ConsentError(
                f"this silo's owner has not approved job {job.name!r} as the driver sent it",
                "Read the job file. If it is the agreed one, run on the silo's machine: blindsum "
                "approve JOB --silo NAME, with the same --set as the run.",
            )
        for one in reversed(of_job):
            if self._now() < one.until and len(self.runs(one)) < one.runs:
                return one
        last = of_job[-1]
        raise ConsentError(
            f"the approval of job {job.name!r} was for {last.runs} runs until {_day(last.until)}; "
            f"{len(self.runs(last))} have used it",
            "If another run is agreed, run: blindsum approve JOB --silo NAME.",
        )

    def use(self, run: str, job: Job) -> None:
        """Record that a run uses its approval. Called inside the ledger's transaction.

        Raises:
            ConsentError: as `of`; another run may have used the approval in the meantime.
        """
        approval = self.of(run, job)
        if run not in self.runs(approval):
            self._ledger.append(self._entry("begun", run, {"approval": approval.id}))

    def _entry(self, kind: Any, run: str, content: dict[str, Any]) -> Entry:
        return Entry(kind, self._now(), run, self._ledger.silo, "", 0, 0, 0.0, 0.0, content)


def require_useful(runs: int, until: float, now: float) -> None:
    """Raise ConsentError if no run could ever use an approval for that many runs until then."""
    if not 1 <= runs <= MOST_RUNS or until <= now:
        raise ConsentError(
            f"no run could use an approval for {runs} runs that ends on {_day(until)}",
            f"Choose 1 to {MOST_RUNS} runs, and a day in the future.",
        )


def new_id() -> str:
    """Return a random id for an approval."""
    return secrets.token_hex(8)


def require_weights(approval: Approval, weights: str) -> None:
    """Raise ConsentError unless the model starts from the weights that the owner approved."""
    if approval.weights != weights:
        raise ConsentError(
            "the model's initial weights are not those that this silo's owner approved",
            "The version of torch may have changed since the approval. If the job is the agreed "
            "one, run on the silo's machine: blindsum approve JOB --silo NAME.",
        )


def require_version(approval: Approval, version: str) -> None:
    """Raise ConsentError unless this is the version of blindsum under which the owner approved."""
    if approval.version not in ("", version):
        raise ConsentError(
            f"the job was approved under blindsum {approval.version}, and this is {version}",
            "Read what changed, and approve the job again.",
        )


def require_dataset(approval: Approval, fingerprints: Collection[str]) -> None:
    """Raise ConsentError unless the table has the records for which the owner approved the job."""
    if approval.dataset and approval.dataset not in fingerprints:
        raise ConsentError(
            "the table's records are not those for which this silo's owner approved the job",
            "If the change is meant, approve the job again.",
        )


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))

"""A silo's owner approves or refuses a job in the silo's inbox."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from blindsum.actors.approving import approve_job
from blindsum.actors.separate.inbox import Inbox, against_policy
from blindsum.platform.errors import ConsentError, JobError, ModelError
from blindsum.platform.job.owner import Owner
from blindsum.platform.job.paths import places_under
from blindsum.platform.state.approval import Approval


def approve_proposal(
    owner: Owner, silo: str, inbox: Inbox, digest: str, runs: int, until: float
) -> Approval:
    """Approve a proposed job, and note it in the inbox, from where the agent reports it.

    Building the model and trying the loss run the code of the job's own functions. If a proposal
    brings code, that happens in a process of its own: the code does not stay in this one, it meets
    no module of the same name from an earlier job, and this process never looks for modules in the
    proposal's folder.

    Args:
        until: end of the approval, seconds since 1970.

    Raises:
        ConsentError: the owner's file does not allow the job, the coordinator has withdrawn it, or
            no run could use the approval.
        DataError: the table cannot be read, or does not meet the job.
        ModelError: the model cannot be built.
        JobError, KeyRefused, LedgerError: the proposal or the ledger cannot be read or written.
    """
    digest = require_approvable(owner, silo, inbox, digest)
    job, folder = inbox.job(digest), code_folder(inbox, digest)
    code = code_files(folder)
    arguments = job, silo, places_under(owner, job.silo(silo), ""), folder, runs, until
    given = _apart(*arguments) if code else approve_job(*arguments)
    inbox.decide(digest, "approved", weights=given.weights)
    return given


def require_approvable(owner: Owner, silo: str, inbox: Inbox, digest: str) -> str:
    """Return the whole digest of a proposal that the owner may approve. Raises as
    `approve_proposal`, before anything is read of the table."""
    received = inbox.one(digest)
    job = inbox.job(received.digest)
    if not received.open:
        raise ConsentError(
            f"the coordinator no longer proposes job {job.name}", "No run could use an approval."
        )
    code = code_files(code_folder(inbox, received.digest))
    if faults := against_policy(owner, job, silo, code):
        raise ConsentError(
            f"{owner.path} does not allow job {job.name}: {'; '.join(faults)}",
            "If you want to allow it, change the owner's file and start the agent again.",
        )
    return received.digest


def refuse_proposal(inbox: Inbox, digest: str, reason: str) -> None:
    """Refuse a proposed job. The agent starts no run of it, even if it was approved before.

    Args:
        reason: the owner's words for the coordinator.

    Raises:
        JobError: there is no such proposal, or no reason.
    """
    if not (reason := reason.strip()):
        raise JobError("a refusal needs a reason", "Write one; the coordinator reads it.")
    inbox.decide(digest, "refused", reason)


def code_folder(inbox: Inbox, digest: str) -> Path:
    """Return the folder with the code of a proposal and its job file."""
    return inbox.folder(digest) / "code"


def code_files(folder: Path) -> list[str]:
    """Return the names of a proposal's modules, relative to its folder of code."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))


def _apart(*arguments: Any) -> Approval:
    """Call `approve_job` in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        try:
            return pool.submit(approve_job, *arguments).result()
        except BrokenProcessPool:
            raise ModelError(
                "the process that built the model ended before it was done",
                "Read the code of the job's own functions: it may end the process, or need more "
                "memory.",
            ) from None

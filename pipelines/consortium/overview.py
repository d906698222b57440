"""What a silo's page shows first: the agent's status, jobs, rounds, budgets and the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from blindsum.actors.books import AUDIT_LOG
from blindsum.actors.separate.agent import status_file
from blindsum.actors.separate.inbox import Inbox, Received
from blindsum.actors.vault import open_identity
from blindsum.pipelines.consortium.budget import Budget, budgets
from blindsum.pipelines.consortium.progress import AttemptedRound, rounds_of
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.owner import Owner
from blindsum.platform.state.approval import job_digest
from blindsum.platform.state.audit_log import AuditLog, Event

NEWEST = 20
"""How many decided jobs and how many entries of the audit log are shown."""


@dataclass(frozen=True, kw_only=True)
class RunShown:
    """A run of this silo. `rounds` are those planned, None if its job is not in the inbox."""

    name: str
    live: bool
    rounds: int | None
    attempts: Sequence[AttemptedRound]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What the first page shows. `status` is what the agent noted last."""

    silo: str
    status: Mapping[str, Any]
    pending: Sequence[Received]
    decided: Sequence[Received]
    budgets: Sequence[Budget]
    run: RunShown | None
    events: Sequence[Event]


def overview(owner: Owner, silo: str, inbox: Inbox) -> Overview:
    """Return what the first page shows.

    Raises:
        KeyRefused, LedgerError: the ledger or the audit log cannot be used or trusted.
    """
    jobs, status = inbox.all(), agent_status(owner)
    pending = [one for one in jobs if one.verdict == "pending" and one.open]
    decided = [one for one in jobs if one.verdict != "pending"]
    with _audit_log(owner, silo) as log:
        events = log.newest(NEWEST) if log else []
        run = _run(log, inbox, str(status.get("run") or "")) if log else None
    return Overview(
        silo=silo,
        status=status,
        pending=pending,
        decided=decided[: -NEWEST - 1 : -1],
        budgets=budgets(owner, silo),
        run=run,
        events=events,
    )


def agent_status(owner: Owner) -> Mapping[str, Any]:
    """Return what the agent noted last; empty before it was first started."""
    try:
        found = json.loads(status_file(owner.state).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _run(log: AuditLog, inbox: Inbox, live: str) -> RunShown | None:
    """Return the run that goes on, or else the newest one."""
    name = live or next((one.job for one in log.newest(NEWEST)), "")
    if not name:
        return None
    events = log.of_run(name)
    digests = {one.detail.get("job_digest") for one in events} - {None}
    return RunShown(
        name=name,
        live=name == live,
        rounds=next(_rounds(inbox, digests), None),
        attempts=rounds_of(events),
    )


def _rounds(inbox: Inbox, digests: set[object]) -> Iterator[int]:
    approved = [one for one in inbox.all() if one.verdict == "approved"]
    for one in reversed(approved):  # the first is usually the one
        try:
            job = inbox.job(one.digest)
        except BlindsumError:
            continue  # a damaged folder, or a job of an earlier version
        if job_digest(job) in digests:
            yield job.training.rounds


@contextmanager
def _audit_log(owner: Owner, silo: str) -> Iterator[AuditLog | None]:
    """Open the silo's audit log; None before its first run."""
    if not (owner.state / AUDIT_LOG).exists():
        yield None
        return
    log = AuditLog(owner.state / AUDIT_LOG, silo, open_identity(owner.state))
    try:
        yield log
    finally:
        log.close()

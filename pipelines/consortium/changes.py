"""What differs between a proposed job and the last job of the same name that a silo approved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blindsum.actors.separate.inbox import Inbox
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import Approval, Approvals, job_digest
from blindsum.platform.state.approved_code import INSTALLED
from blindsum.platform.state.ledger import Ledger

ABSENT = "(not set)"
_NO_FILE = "(no file)"
SHORT = 16
"""How many hexadecimal digits of a file's SHA-256 a change shows."""


@dataclass(frozen=True)
class Change:
    """One setting, or one file of code, before and now; ABSENT or _NO_FILE where there is none."""

    setting: str
    old: str
    new: str

    def line(self) -> str:
        """Return it in one line."""
        return f"{self.setting}: {self.old} -> {self.new}"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The last approved job of that name.

    Attributes:
        digest: of the job.
        changes: None if the inbox no longer has that job's settings.
    """

    digest: str
    changes: tuple[Change, ...] | None


def since_approved(
    ledger: Ledger | None, inbox: Inbox, job: Job, code: Mapping[str, str]
) -> Earlier | None:
    """Compare a job with the last one of its name that was approved; None if there is none.

    An approval of this very job, with this code, is passed over.

    Args:
        code: SHA-256 of each of the proposal's files, by name.
    """
    approved = Approvals(ledger).all() if ledger else []
    others = [one for one in approved if one.name == job.name and not _is_of(one, job, code)]
    if not others:
        return None
    last = others[-1]
    before = job if last.job == job_digest(job) else _job_of(inbox, last)
    if before is None:
        return Earlier(digest=last.job, changes=None)
    kept = {name: one for name, one in last.code.items() if not name.startswith(INSTALLED)}
    changes = [*_settings(before, job), *_files(kept, code)]
    return Earlier(digest=last.job, changes=tuple(changes))


def _is_of(approval: Approval, job: Job, code: Mapping[str, str]) -> bool:
    return approval.job == job_digest(job) and all(
        name.startswith(INSTALLED) or code.get(name) == digest
        for name, digest in approval.code.items()
    )


def _job_of(inbox: Inbox, approval: Approval) -> Job | None:
    """Return the job that was approved, from the inbox."""
    for one in inbox.all():
        if one.name != approval.name:
            continue
        try:
            job = inbox.job(one.digest)
        except BlindsumError:
            continue  # a damaged folder, or a job of an earlier version
        if job_digest(job) == approval.job:
            return job
    return None


def _settings(before: Job, now: Job) -> Iterator[Change]:
    old, new = flat(before), flat(now)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name, ABSENT), new.get(name, ABSENT))


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            before, now = (one.get(name, _NO_FILE)[:SHORT] for one in (old, new))
            yield Change(f"code {name}", before, now)


def flat(job: Job) -> dict[str, str]:
    """Return every setting of a job by its path, `training.rounds`, with its value as JSON. Silos
    are named, not numbered."""
    content = job.model_dump(mode="json")
    content["silos"] = {silo["name"]: silo for silo in content["silos"]}
    return dict(_flat(content, ""))


def _flat(content: Mapping[str, Any], under: str) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{under}{name}.")
        elif value is not None:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{under}{name}", shown

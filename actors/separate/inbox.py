"""A silo's inbox: the jobs that were proposed to it, and what its owner decided.

Each proposal has a folder in the silo's state folder, named after its digest:

    job.yaml         the job, with every default written out
    *.py             the code of its own functions, if it has any
    proposal.json    when it arrived, and the owner's decision

An approval itself is an entry in the silo's signed ledger (`blindsum.platform.state.approval`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from blindsum.actors.codec import decoded
from blindsum.actors.separate.failures import printable
from blindsum.actors.separate.messages import (
    MOST_FILES,
    MOST_VALUES,
    Decision,
    Notice,
    Proposal,
    Verdict,
)
from blindsum.actors.separate.registry import OPEN, proposal_digest
from blindsum.platform.errors import ConsentError, FederationError, JobError, LedgerError
from blindsum.platform.job.own_code import own_functions
from blindsum.platform.job.owner import Owner
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import dump

FOLDER = "proposals"
MOST_KEPT = 256
_CODE = re.compile(r"(?:[A-Za-z_]\w*/){0,8}[A-Za-z_]\w*\.py")


@dataclass(frozen=True, kw_only=True)
class Received:
    """A proposal that this silo received.

    Attributes:
        at: when it arrived, seconds since 1970.
        verdict: the owner's decision.
        reason: the owner's words for the coordinator, or the rule of the owner's file that refuses.
        by_rule: it was refused by the owner's file; the coordinator is not told by which rule.
        weights: digest of the approved initial weights.
        state, note: as the coordinator said last: proposed, running, finished, failed ...
    """

    digest: str
    name: str
    at: float
    verdict: Verdict = "pending"
    reason: str = ""
    by_rule: bool = False
    weights: str = ""
    state: str = "proposed"
    note: str = ""

    @property
    def open(self) -> bool:
        """Whether the coordinator still proposes it."""
        return self.state in OPEN


class Inbox:
    """The inbox in a silo's state folder.

    Raises:
        LedgerError: the folder cannot be used.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise LedgerError(
                f"{self._folder} cannot be used ({error.strerror})",
                "Check that the disk has room and the folder is writable.",
            ) from None

    def folder(self, digest: str) -> Path:
        """Return the folder of one proposal."""
        return self._folder / digest

    def add(self, digest: str, proposal: Proposal, code: Sequence[bytes]) -> Job:
        """Keep a proposal, and return its job.

        Raises:
            JobError: it is not the proposal with that digest, or not a valid job or code.
            LedgerError: it cannot be written.
        """
        if proposal_digest(proposal, list(code)) != digest:
            raise JobError("the coordinator sent another proposal than it announced")
        try:
            job = decoded(proposal.job.encode(), Job, MOST_VALUES)
        except FederationError:
            raise JobError("the coordinator proposed a job that is not valid here") from None
        names = proposal.code
        if len(set(names)) != len(names) or len(names) != len(code):
            raise JobError("the proposal's files are not as listed")
        if not all(_CODE.fullmatch(one) for one in names) or sum(map(len, code)) > MOST_FILES:
            raise JobError("the proposal has files that are not Python modules, or too large")
        self._forget_old()
        folder = self.folder(digest)
        try:
            for name, content in zip(names, code, strict=True):
                _write(folder / "code" / name, bytes(content))
            _write(folder / "code" / "job.yaml", dump(job.model_dump(mode="json")).encode())
            if not (folder / "proposal.json").exists():
                self._save(Received(digest=digest, name=job.name, at=time.time()))
        except OSError as error:
            raise _full(folder, error) from None
        return job

    def all(self) -> list[Received]:
        """Return every proposal, oldest first."""
        found = []
        for path in self._folder.glob("*/proposal.json"):
            try:
                found.append(Received(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError):
                continue  # half-written by a full disk; the coordinator sends it again
        return sorted(found, key=lambda one: one.at)

    def one(self, start: str) -> Received:
        """Return the proposal whose digest begins so, or the newest with that name.

        Raises:
            JobError: there is none, or there are several.
        """
        all_ = self.all()
        found = [one for one in all_ if one.digest.startswith(start)] if start else []
        found = found or [one for one in all_ if one.name == start][-1:]
        if len(found) != 1:
            many = "several proposed jobs begin" if found else "no proposed job begins"
            raise JobError(f"{many} with {start!r}", "See: blindsum silo jobs")
        return found[0]

    def job(self, digest: str) -> Job:
        """Return a proposal's job.

        Raises:
            ConsentError: this silo has not received it.
        """
        from blindsum.platform.job.file import load_job

        path = self.folder(digest) / "code" / "job.yaml"
        if not path.exists():
            raise ConsentError("this silo has not received such a proposal")
        return load_job(path, []).job

    def decide(
        self,
        digest: str,
        verdict: Verdict,
        reason: str = "",
        weights: str = "",
        by_rule: bool = False,
    ) -> None:
        """Note a decision; the agent reports it."""
        one = replace(self.one(digest), verdict=verdict, reason=reason[:500])
        self._save(replace(one, weights=weights, by_rule=by_rule))

    def take_notices(self, notices: Sequence[Notice]) -> list[str]:
        """Note what the coordinator says about the proposals; returns lines about those that have
        ended since. One that is proposed again waits for a new decision: an approval is used up."""
        said, new = [], {notice.proposal: notice for notice in notices}
        for one in self.all():
            if one.digest not in new and not one.open:
                continue  # an old one, which the coordinator lists no more
            state = new[one.digest].state if one.digest in new else "withdrawn"
            if state == one.state:
                continue
            note = printable(new[one.digest].note) if one.digest in new else ""
            again = state == "proposed" and not one.open and not one.by_rule
            if again:
                one = replace(one, verdict="pending", reason="", weights="")
            self._save(replace(one, state=state, note=note))
            if again:
                said.append(
                    f"job {one.name} is proposed again: blindsum silo show {one.digest[:8]}"
                )
            if state not in OPEN:
                ended = "was withdrawn" if state == "withdrawn" else f"has {state}"
                said.append(f"job {one.name} {ended}" + (f": {note}" if note else ""))
        return said

    def revision(self) -> float:
        """Return a number that changes with every decision."""
        times = (path.stat().st_mtime_ns for path in self._folder.glob("*/proposal.json"))
        return sum(times)

    def _save(self, one: Received) -> None:
        folder = self.folder(one.digest)
        try:
            _write(folder / "proposal.json", json.dumps(asdict(one)).encode())
        except OSError as error:
            raise _full(folder, error) from None

    def _forget_old(self) -> None:
        closed = [one for one in self.all() if one.state not in OPEN]
        for one in closed[: max(0, len(closed) - MOST_KEPT)]:
            shutil.rmtree(self.folder(one.digest), ignore_errors=True)


def decision_of(one: Received) -> Decision:
    """Return what the coordinator learns of the owner's decision."""
    reason = "the silo's own rules do not allow it" if one.by_rule else one.reason
    return Decision(
        proposal=one.digest,
        verdict=one.verdict,
        weights=one.weights,
        reason=reason if one.verdict == "refused" else "",
    )


def against_policy(owner: Owner, job: Job, silo: str, code: Sequence[str]) -> list[str]:
    """Return why the owner's file does not allow a job; empty if it does."""
    file, policy = owner.file, owner.file.policy
    found = []
    if silo not in job.roster:
        return [f"the job does not name silo '{silo}'"]
    section = job.silo(silo)
    if section.data not in file.datasets:
        known = ", ".join(file.datasets)
        found.append(f"the job asks for dataset {section.data!r}; this silo has {known}")
    if section.state or section.private_tasks:
        found.append("the job names a path at this silo (state or private_tasks)")
    if len(job.silos) < policy.least_silos or job.least_silos < policy.least_silos:
        found.append(
            f"the job has {len(job.silos)} silos with a quorum of {job.least_silos}; this silo "
            f"takes part with at least {policy.least_silos}"
        )
    found += _of_privacy(policy.most_epsilon, job, silo)
    if code and policy.factory == "never":
        named = ", ".join(own_functions(job)) or "unused"
        found.append(f"the job brings code of its own ({named})")
    if own_functions(job) and not code:
        named = " and ".join(own_functions(job))
        found.append(f"the job has a {named}, but the proposal has no code")
    if job.encryption.scheme == "none":
        found.append("the job does not encrypt updates")
    if job.encryption.verify == "keep":
        found.append("the job asks aggregators to keep uploads, which separate clusters do not")
    return found


def _of_privacy(most_epsilon: float | None, job: Job, silo: str) -> list[str]:
    if most_epsilon is None:
        return []
    if not job.private:
        return ["the job has no differential privacy"]
    asked = job.silo(silo).epsilon or job.privacy.epsilon  # type: ignore[union-attr]
    if asked > most_epsilon:
        return [f"the job spends epsilon {asked:g}; this silo allows {most_epsilon:g} a job"]
    return []


def _full(folder: Path, error: OSError) -> LedgerError:
    what = f"{folder} cannot be written ({error.strerror})"
    return LedgerError(what, "Check that the disk has room.")


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)

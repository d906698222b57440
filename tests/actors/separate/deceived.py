"""An agent whose coordinator lies to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from blindsum.actors.separate.bodies import Refusal
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.messages import (
    Answer,
    Instruction,
    Next,
    Notice,
    Poll,
    Proposal,
    most_bytes,
    packed,
    unpacked,
)
from blindsum.actors.separate.registry import proposal_digest
from blindsum.actors.separate.session import Session
from blindsum.actors.silo import Silo
from blindsum.platform.errors import FederationError
from blindsum.platform.job.schema import Job
from tests.actors.separate.organisations import Coordinator, Organisation, until

SILENT_S = 0.02
DENIED = "d" * 64
"""The digest of a proposal that is listed, and denied when it is fetched."""


class LyingCoordinator:
    """A coordinator that answers polls as the test says, with its own identity and keys."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.gate = coordinator.gate
        self.lies: list[bytes] = []
        self.polls: list[Poll] = []
        self.bodies: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.board = 1
        self.gate._poll = self._poll  # type: ignore[method-assign]
        self.gate._proposal = self._proposal  # type: ignore[method-assign]

    async def _poll(self, request: web.BaseRequest) -> web.StreamResponse:
        _, session, content = await self.gate._authentic(request, most_bytes(Poll))
        poll, _ = unpacked(content, Poll)
        self.polls.append(poll)
        if poll.park and not self.lies:
            await asyncio.sleep(SILENT_S)  # an honest one parks polls for longer
        received = tuple(one.number for one in poll.answers)
        lie = self.lies.pop(0) if self.lies else packed(Next(received=received, board=poll.board))
        return sealed(session, request, lie)

    async def _proposal(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        _, session, _ = await self.gate._authentic(request, 0)
        self.asked.append(digest)
        if digest == DENIED:
            raise Refusal(404, FederationError("no such job is proposed to this silo"))
        return sealed(session, request, self.bodies.get(digest, b""))

    def tell(self, body: bytes) -> None:
        """Answer a poll with this, and wait until the agent has taken it and asked again."""
        self.lies.append(body)
        until(lambda: not self.lies, 20)
        seen = len(self.polls)
        until(lambda: len(self.polls) > seen + 1, 20)

    def order(
        self, *instructions: Instruction, attached: tuple[bytes, ...] = ()
    ) -> dict[int, Answer]:
        """Send instructions; returns what the agent answered to each."""
        before, numbers = len(self.polls), {one.number for one in instructions}
        self.lies.append(packed(Next(instructions=instructions, board=self.board), attached))

        def answers() -> dict[int, Answer]:
            found = [one for poll in self.polls[before:] for one in poll.answers]
            return {one.number: one for one in found if one.number in numbers}

        until(lambda: answers().keys() == numbers, 30)
        return answers()

    def propose(self, proposal: Proposal, *code: bytes, digest: str = "") -> str:
        """Propose a job; returns its digest."""
        digest = digest or proposal_digest(proposal, list(code))
        self.bodies[digest] = packed(proposal, code)
        self.board += 1
        self.tell(packed(Next(board=self.board, notices=(notice(digest),))))
        return digest


def sealed(session: Session, request: web.BaseRequest, content: bytes) -> web.Response:
    return web.Response(body=session.close(content, request.method, request.path))


def notice(digest: str, state: str = "proposed") -> Notice:
    return Notice(proposal=digest, state=state)


class Deceived:
    """An agent of alder, its coordinator, and everything that its silos were started for."""

    started: list[Any]

    def __init__(self, folder: Path, tables: dict[str, Path]) -> None:
        self.folder = folder
        self.coordinator = Coordinator(folder / "coordinator")
        self.liar = LyingCoordinator(self.coordinator)
        self.alder = Organisation(folder / "alder", "alder", tables["alder"], self.coordinator)
        started = self.started = []

        class Watched(Silo):
            def __init__(self, *arguments: Any) -> None:
                started.append(arguments[0])
                super().__init__(*arguments)

        self.alder.start(Watched)
        until(lambda: self.liar.polls, 20)
        self.inbox = Inbox(self.alder.state)
        self.before = self.files()

    def files(self) -> dict[str, int]:
        """Every file outside of the inbox that is not the agent's own note, and when it changed."""
        skipped = (self.alder.state / "proposals", self.folder / "coordinator")
        return {
            str(path): path.stat().st_mtime_ns
            for path in self.folder.rglob("*")
            if path.is_file()
            and path.name != "agent.json"
            and not any(path.is_relative_to(one) for one in skipped)
        }

    def goes_on(self) -> None:
        """Nothing ran, nothing was written outside of the inbox, and the agent is there."""
        assert self.started == [] and self.files() == self.before
        assert self.alder._thread.is_alive()
        number = self.alder.agent._after + 1
        answer = self.liar.order(Instruction(number=number, run="none", method="ping"))[number]
        assert answer.outcome == "died"

    def close(self) -> None:
        self.alder.stop()
        self.coordinator.close()


def proposed(job: Job, code: tuple[str, ...] = ()) -> Proposal:
    return Proposal(name=job.name, job=job.model_dump_json(), code=code)


class Running:
    """An approved run of alder, whose silo was inspected."""

    def __init__(self, deceived: Deceived, job: Job) -> None:
        self.deceived, self.liar = deceived, deceived.liar
        digest = self.liar.propose(proposed(job))
        deceived.alder.approve(digest)
        self.number = 0
        start = self.give("start", proposal=digest)
        assert start.outcome == "answered" and len(deceived.started) == 1
        assert self.give("inspect").outcome == "answered"

    def give(self, method: Any, *attached: bytes, run: str = "run-1", **fields: Any) -> Answer:
        """Send one instruction; returns its answer."""
        self.number += 1
        one = Instruction(number=self.number, run=run, method=method, **fields)
        return self.liar.order(one, attached=attached)[self.number]

    def goes_on(self) -> None:
        """The run is where it was: the silo answers, and takes the next step of a run."""
        assert self.give("introduce").outcome == "answered"
        assert len(self.deceived.started) == 1 and self.deceived.alder._thread.is_alive()

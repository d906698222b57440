"""A silo's agent: it connects the silo, in the organisation's own Ray, to the coordinator.

It polls for instructions, calls the silo, and sends what the silo answers. It starts a silo only
for a job that the owner has approved, from the copy in the silo's own inbox, and only for this
silo's name: nothing in a message names a file, code or an address here.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from blindsum.actors.cluster import Answered, Cluster, Died, Raised
from blindsum.actors.messages import SiloSpec
from blindsum.actors.separate.client import LinkLost, Replaced, SessionEnded
from blindsum.actors.separate.inbox import Inbox, against_policy, decision_of
from blindsum.actors.separate.link import Link, LinkSettings
from blindsum.actors.separate.local_silo import LocalSilo, Said, said
from blindsum.actors.separate.messages import (
    PARK_S,
    Decision,
    Instruction,
    Next,
    Poll,
    Proposal,
    unpacked,
)
from blindsum.actors.separate.registry import OPEN
from blindsum.he.identity import Identity
from blindsum.platform.errors import (
    BlindsumError,
    ConsentError,
    without_values,
)
from blindsum.platform.events import Log
from blindsum.platform.job.owner import Owner

QUICK_S = 0.1
"""How long the agent waits for an answer before it parks the next poll without it."""
_ALTERED = "messages are altered on their way"
_MOST_OPEN = 64
_WATCH_S = 0.5
_RENEW_S = 3600.0


class Agent:
    """A silo's agent.

    Args:
        owner: the owner's file of this silo.
        cluster: where the silo runs; it takes the classes of `blindsum.actors.separate.relay`.
        say: shows one line to the person at the terminal.
    """

    def __init__(
        self,
        owner: Owner,
        silo: str,
        link: LinkSettings,
        identity: Identity,
        cluster: Cluster,
        version: str,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._owner, self.silo, self._cluster, self._say = owner, silo, cluster, say
        self.instance = secrets.token_hex(16)
        self._link = Link(link, silo, identity, version, self.instance)
        self.inbox = Inbox(owner.state)
        self._log = Log(silo=silo)
        self._runs: dict[str, LocalSilo] = {}
        self._answers: dict[int, Said] = {}
        self._unsent: set[int] = set()
        self._new_answer = asyncio.Event()
        self._ready = asyncio.Event()
        self._mending = asyncio.Lock()
        self._after = self._board = 0
        self._told: float | None = None
        self._known: str | None = None
        self._waiters = ThreadPoolExecutor(16, thread_name_prefix="silo")
        self._status: dict[str, Any] = {}

    # -- the connection ----------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve the coordinator until `stop` is set. Connections come and go; this goes on."""
        parts = (self._poller, self._sender, self._watcher, self._renewer)
        tasks = [asyncio.create_task(one()) for one in parts]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                if one is not stopping:
                    one.result()
        finally:
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            for run in list(self._runs.values()):
                self._end(run)
            await self._link.close()
            self._note(connected=False)
            self._waiters.shutdown(wait=False, cancel_futures=True)

    async def _poller(self) -> None:
        failures = answered = 0
        while True:
            try:
                if not self._link.established:
                    await self._connect()
                await self._poll(park=not failures)  # after a failure the first answer is due now
                failures = 0
                self._note_connected()
                continue
            except SessionEnded as ended:
                self._wait_for_session()
                why = f"the coordinator says: {ended.error.what}" if ended.error else _ALTERED
                line = f"not connected: {why}. Trying again."
            except LinkLost as lost:
                why = str(lost)
                line = f"not connected: {why}. Trying again."
            except Replaced as error:
                why = line = str(error)
            except BlindsumError as error:
                why = str(error)
                line = f"refused: {why}"
                answered = self._link.answered  # an answer that cannot be used mends nothing
            except Exception as error:  # noqa: BLE001 - no message may end the agent
                why = line = str(without_values(error))
                answered = self._link.answered
            if self._link.answered > answered:  # by another request, since the last failure
                failures, answered = 0, self._link.answered
            failures += 1
            if failures > 1:  # a single one is mended without a word
                self._tell(line)
                self._note(connected=False, why=why)
            await _pause(failures, most_s=5.0)

    def _wait_for_session(self) -> None:
        """Let the others wait, unless the poller has begun a new session in the meantime."""
        if not self._link.established:
            self._ready.clear()

    async def _connect(self) -> None:
        await self._link.begin()
        instance = self._link.coordinator_instance
        if instance != self._known:  # the coordinator was started again, and knows no run of ours
            for run in list(self._runs.values()):
                self._end(run)
            self._known, self._after, self._board = instance, 0, 0
            self._answers.clear()
            self._unsent.clear()
        self._unsent.update(self._answers)
        self._told = None
        self._ready.set()
        self._note_connected()

    def _note_connected(self) -> None:
        if not self._status.get("connected"):
            self._tell(f"connected as silo '{self.silo}'")
            self._note(connected=True, since=time.time(), why="")
        elif time.time() - self._status["at"] > PARK_S:
            self._note()

    async def _poll(self, park: bool) -> None:
        """Send what is to be sent, and take up what arrives."""
        sending = sorted(self._unsent)[:16]
        self._unsent.difference_update(sending)
        revision = self.inbox.revision()
        decisions = self._decisions() if revision != self._told else ()
        attachments = [one for number in sending for one in self._answers[number][1]]
        poll = Poll(
            after=self._after,
            park=park,
            board=self._board,
            answers=tuple(self._answers[number][0] for number in sending),
            decisions=decisions,
        )
        try:
            answer, attached = await self._link.ask("/v1/poll", poll, attachments, Next)
        except BaseException:
            self._unsent.update(number for number in sending if number in self._answers)
            raise
        self._told = revision
        for number in answer.received:
            self._answers.pop(number, None)
        begun = self._take_instructions(answer.instructions, attached)
        if answer.board != self._board:
            await self._take_proposals(answer)
        if begun and park:
            self._new_answer.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._new_answer.wait(), QUICK_S)

    async def _sender(self) -> None:
        """Send answers that came while a poll was parked."""
        while True:
            await self._new_answer.wait()
            await asyncio.sleep(0.005)  # the poller takes it if it is not parked
            self._new_answer.clear()
            if not self._unsent:
                continue
            try:
                await self._ready.wait()
                await self._poll(park=False)
            except SessionEnded:
                self._wait_for_session()
            except Exception:  # noqa: BLE001 - the poller meets it too, and says so
                await asyncio.sleep(0.2)
            if self._unsent:
                self._new_answer.set()

    async def _watcher(self) -> None:
        """Report the owner's decisions soon after they are made."""
        while True:
            await asyncio.sleep(_WATCH_S)
            with suppress(Exception):  # the poller meets it too, and says so
                if self._ready.is_set() and self.inbox.revision() != self._told:
                    await self._poll(park=False)

    async def _renewer(self) -> None:
        """Renew the silo's certificate in time."""
        while True:
            await self._ready.wait()
            pause = _RENEW_S
            try:
                if await self._link.renew():
                    self._tell("the silo's certificate was renewed")
            except (LinkLost, SessionEnded):
                pause = _WATCH_S
            except Exception as error:  # noqa: BLE001 - no message may end the agent
                known = error if isinstance(error, BlindsumError) else without_values(error)
                self._tell(f"the silo's certificate was not renewed: {known}")
            self._wait_for_session()
            await asyncio.sleep(pause)

    # -- proposals ---------------------------------------------------------------------------

    async def _take_proposals(self, answer: Next) -> None:
        known = {one.digest for one in self.inbox.all()}
        for notice in answer.notices:
            if notice.proposal not in known and notice.state in OPEN:
                await self._take_proposal(notice.proposal)
        for line in self.inbox.take_notices(answer.notices):
            self._tell(line)
        self._board = answer.board

    async def _take_proposal(self, digest: str) -> None:
        try:
            content = await self._link.exchange("POST", f"/v1/proposals/{digest}", b"")
            proposal, files = unpacked(content, Proposal)
            job = self.inbox.add(digest, proposal, [bytes(one) for one in files])
        except BlindsumError as error:
            self._tell(f"a proposed job was dropped: {error}")
            return
        if faults := against_policy(self._owner, job, self.silo, proposal.code):
            self.inbox.decide(digest, "refused", "; ".join(faults), by_rule=True)
            self._tell(f"job {job.name} was refused by silo.yaml: {'; '.join(faults)}")
        else:
            self._tell(f"job {job.name} is proposed: blindsum silo show {digest[:8]}")

    def _decisions(self) -> tuple[Decision, ...]:
        open_ = [one for one in self.inbox.all() if one.open]
        return tuple(map(decision_of, open_))[:256]

    # -- instructions ------------------------------------------------------------------------

    def _take_instructions(
        self, instructions: Sequence[Instruction], attached: Sequence[memoryview]
    ) -> bool:
        """Begin what is new; returns whether anything was. While many answers have not arrived, the
        rest is left: the coordinator sends it again."""
        left, begun = list(attached), False
        for one in instructions:
            running = sum(len(run.tasks) for run in self._runs.values())
            if len(self._answers) + running >= _MOST_OPEN:
                break
            count = one.messages + sum(not frame.digest for frame in one.frames)
            mine, left = left[:count], left[count:]
            if one.number <= self._after:
                continue
            self._after, begun = one.number, True
            self._begin(one, mine)
        return begun

    def _begin(self, one: Instruction, attached: list[memoryview]) -> None:
        """Begin an instruction in its order: what it calls is called before this returns, unless
        parts of a total must be fetched first."""
        try:
            if one.method == "start":
                self._start(one)
                return self._answer(said(one.number, Answered(None)))
            run = self._runs.get(one.run)
            if one.method == "end":
                if run:
                    self._end(run)
                return self._answer(said(one.number, Answered(None)))
            if run is None:
                return self._answer(said(one.number, Died()))
            run.begin(one, attached, self._answer)
        except BlindsumError as error:
            self._answer(said(one.number, Raised(error)))
        except Exception as error:  # noqa: BLE001 - its text may quote private values
            self._answer(said(one.number, Raised(without_values(error))))
        return None

    def _start(self, one: Instruction) -> None:
        """Start the silo for an approved proposal."""
        digest = one.proposal or ""
        received = next((r for r in self.inbox.all() if r.digest == digest), None)
        if received is None or received.verdict != "approved":
            raise ConsentError("this silo's owner has not approved this job")
        for earlier in list(self._runs.values()):
            self._end(earlier)
        spec = SiloSpec(
            job=self.inbox.job(digest),
            run=one.run,
            name=self.silo,
            folder=str(self.inbox.folder(digest) / "code"),
            resumed=one.resumed,
        )
        peer = self._cluster.start_silos({self.silo: spec})[self.silo]
        self._runs[one.run] = LocalSilo(
            one.run, self.silo, self._cluster, peer, self._until_sent, self._waiters
        )
        self._tell(f"run {one.run} begins" if not one.resumed else f"run {one.run} goes on")
        self._note(run=one.run)

    def _end(self, run: LocalSilo) -> None:
        self._runs.pop(run.run, None)
        run.end()
        self._tell(f"run {run.run} has ended here")
        self._note(run="")

    async def _until_sent(self, path: str, content: bytes) -> bytes:
        """Make a request until it succeeds. What was cut is repeated one by one: several pieces
        side by side might never cross a link that is cut again and again.

        Raises:
            BlindsumError: the coordinator refuses it.
        """
        with suppress(LinkLost, SessionEnded):
            return await self._sent(path, content)
        async with self._mending:
            failures = 0
            while True:
                with suppress(LinkLost, SessionEnded):
                    return await self._sent(path, content)
                failures += 1
                await _pause(failures, most_s=2.0)

    async def _sent(self, path: str, content: bytes) -> bytes:
        await self._ready.wait()
        try:
            return await self._link.exchange("POST", path, content)
        except SessionEnded:
            self._wait_for_session()
            raise

    def _answer(self, said: Said) -> None:
        answer = said[0]
        self._answers[answer.number] = said
        self._unsent.add(answer.number)
        self._new_answer.set()

    # -- for people --------------------------------------------------------------------------

    def _tell(self, line: str) -> None:
        """Show a line, once."""
        if line != self._status.get("line"):
            self._status["line"] = line
            with suppress(OSError, ValueError):  # a terminal that is gone, or has no such letter
                self._say(line)
            self._log.say("agent", said=line)

    def _note(self, **changes: Any) -> None:
        """Write the agent's status for `blindsum silo status` and the page."""
        self._status |= changes | {"at": time.time()}
        with suppress(OSError):
            status_file(self._owner.state).write_text(json.dumps(self._status), encoding="utf-8")


async def _pause(failures: int, most_s: float) -> None:
    """Wait longer after each failure, and not as long as other agents that failed just now."""
    await asyncio.sleep(min(0.1 * 2 ** min(failures - 1, 10), most_s) * random.uniform(0.5, 1.5))


def status_file(state: Path) -> Path:
    """Return the file in which a running agent notes its status."""
    return state / "agent.json"

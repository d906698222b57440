"""The silo that an agent runs in its own cluster, for one run: calls, frames, and answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import pyarrow as pa

from blindsum.actors.cluster import Answered, Cluster, Outcome, Raised
from blindsum.actors.codec import decoded
from blindsum.actors.separate.failures import error_of, failure_of
from blindsum.actors.separate.messages import INLINE, PART, Answer, Failure, Frame, Instruction
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    without_values,
)

IN_FLIGHT = 3
_FOREVER_S = 3600.0
_SENDS = ("train", "evaluate")
Send = Callable[[str, bytes], Awaitable[bytes]]
"""Makes a request until it succeeds: a path and a body to the answer's body."""

Said = tuple[Answer, list[Any]]
"""An answer and its attachments."""


class LocalSilo:
    """A silo that runs here.

    Args:
        peer: the silo, in the cluster's own form.
        send: makes requests of the coordinator.
        waiters: threads that wait for the cluster.
    """

    def __init__(
        self, run: str, silo: str, cluster: Cluster, peer: Any, send: Send, waiters: Executor
    ) -> None:
        self.run, self._silo, self._cluster, self._peer = run, silo, cluster, peer
        self._send, self._waiters = send, waiters
        self._turn, self._most = 0, 0
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(
        self, one: Instruction, attached: list[memoryview], answered: Callable[[Said], None]
    ) -> None:
        """Begin an instruction; `answered` is called with its answer."""

        async def call() -> None:
            try:
                answer = await self._call(one, attached)
            except Exception as error:  # noqa: BLE001 - every instruction is answered
                answer = said(one.number, Raised(without_values(error)))
            answered(answer)

        task = asyncio.get_running_loop().create_task(call())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def end(self) -> None:
        """End the silo's process, and every call."""
        for task in list(self.tasks):
            task.cancel()
        self._cluster.kill(self._peer)

    async def _call(self, one: Instruction, attached: list[memoryview]) -> Said:
        frames: Sequence[tuple[int, pa.Buffer]] = ()
        try:
            arguments: list[Any] = [bytes(a) for a in attached[: one.messages]]
            if one.method == "finish":
                arguments.append(one.aggregators)
            elif one.method in ("apply", "read_metrics"):
                arguments += [[], *await self._frames(one, attached[one.messages :])]
            elif one.method == "take_state":
                arguments += await self._frames(one, attached)
            (handle,) = self._cluster.call(self._peer, one.method, *arguments)
            if one.method in _SENDS:
                outcome = await self._passing_frames(one, handle)
                if isinstance(outcome, Answered):
                    value, frames = outcome.value
                    outcome = Answered(value)
            else:
                outcome = await self._outcome(handle)
            if isinstance(outcome, Answered) and one.method == "inspect":
                self._most = _most_frames(outcome.value)
            if isinstance(outcome, Answered) and len(outcome.value or b"") > INLINE:
                return await self._in_parts(one.number, outcome.value)
        except BlindsumError as error:
            outcome = Raised(error)
        except Exception as error:  # noqa: BLE001 - its text may quote private values
            outcome = Raised(without_values(error))
        return said(one.number, outcome, frames)

    async def _passing_frames(self, one: Instruction, handle: Any) -> Outcome:
        """Wait for a call, and put the frames that do not return with its answer, a few at a
        time."""
        call = asyncio.ensure_future(self._outcome(handle))
        flying: set[asyncio.Future[None]] = set()
        turn, number, arrived = self._turn, 0, 0
        failure: BlindsumError | None = None
        while not call.done():
            (handle,) = self._cluster.call(self._peer, "outgoing", turn, number, arrived, failure)
            taking = asyncio.ensure_future(self._outcome(handle))
            everything: set[asyncio.Future[Any]] = {call, taking, *flying}
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            outcome = taking.result() if taking.done() else None
            if isinstance(outcome, Answered) and outcome.value:
                number += 1
                flying.add(asyncio.ensure_future(self._put_frame(one, *outcome.value)))
            landed = {task for task in flying if task.done()}
            if len(flying) >= IN_FLIGHT and not landed:
                landed, _ = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            flying -= landed
            arrived += len(landed)
            failure = failure or next((e for t in landed if (e := _failed(t))), None)
        self._turn += 1
        for task in flying:
            task.cancel()
        return await call

    async def _put_frame(self, one: Instruction, aggregator: int, frame: pa.Buffer) -> None:
        digest = hashlib.sha256(frame).hexdigest()
        path = f"/v1/calls/{one.number}/frames/{aggregator}/{digest}"
        answer = await self._send(path, bytes(frame))
        if answer:
            raise error_of(decoded(answer, Failure), self._silo)

    async def _frames(self, one: Instruction, attached: list[memoryview]) -> list[list[Any]]:
        """Return an instruction's frames, from each aggregator.

        Raises:
            FederationError: they are more than this job can have, or not as announced.
        """
        if sum(frame.size for frame in one.frames) > self._most:
            raise FederationError("the frames are longer than any of this job's")
        if attached:
            contents: list[Any] = [pa.py_buffer(bytes(part)) for part in attached]
        else:
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def fetch(frame: Frame) -> pa.Buffer:
                pieces = []
                for start in range(0, frame.size, PART):
                    async with limit:
                        pieces.append(await self._send(f"/v1/parts/{frame.digest}/{start}", b""))
                return pa.py_buffer(b"".join(pieces))

            contents = await asyncio.gather(*(fetch(frame) for frame in one.frames))
        if [len(content) for content in contents] != [frame.size for frame in one.frames]:
            raise FederationError("the frames are not as announced")
        groups: dict[int, list[Any]] = {}
        for frame, content in zip(one.frames, contents, strict=True):
            groups.setdefault(frame.aggregator, []).append(content)
        return [groups[index] for index in sorted(groups)]

    async def _in_parts(self, number: int, value: bytes) -> Said:
        """Put a long answer ahead in pieces."""
        parts = []
        for start in range(0, len(value), PART):
            content = value[start : start + PART]
            digest = hashlib.sha256(content).hexdigest()
            await self._send(f"/v1/calls/{number}/values/{digest}", content)
            parts.append(Frame(aggregator=0, digest=digest, size=len(content)))
        return Answer(number=number, outcome="answered", value=tuple(parts)), []

    async def _outcome(self, handle: Any) -> Outcome:
        loop = asyncio.get_running_loop()
        while True:
            found = await loop.run_in_executor(
                self._waiters, self._cluster.wait, [handle], 1, _FOREVER_S
            )
            if found:
                return found[handle]


def said(
    number: int, outcome: Outcome, frames: Sequence[tuple[int, pa.Buffer]] = ()
) -> tuple[Answer, list[Any]]:
    """Return the answer that an outcome is, with its attachments."""
    if isinstance(outcome, Answered):
        value = outcome.value or b""
        answer = Answer(
            number=number,
            outcome="answered",
            value=(Frame(aggregator=0, digest="", size=len(value)),) if value else (),
            frames=tuple(
                Frame(aggregator=index, digest="", size=len(frame)) for index, frame in frames
            ),
        )
        return answer, [*([value] if value else []), *(frame for _, frame in frames)]
    if isinstance(outcome, Raised):
        return Answer(number=number, outcome="raised", failure=failure_of(outcome.error)), []
    return Answer(number=number, outcome="died"), []


def _most_frames(inspection: bytes) -> int:
    """Return the most bytes of a total or of a sealed state of a silo that was inspected: several
    times as many as there can be."""
    return 2**26 + 64 * int(json.loads(inspection)["parameters"])


def _failed(task: asyncio.Future[None]) -> BlindsumError | None:
    """Return why a frame did not arrive."""
    error = task.exception()
    if error is None or isinstance(error, BlindsumError):
        return error
    return AggregatorLost("the upload could not be sent")

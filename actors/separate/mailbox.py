"""A silo's mailbox at the coordinator: instructions for its agent, and the agent's answers.

The federation's side posts and the gate's side delivers, in different threads. An instruction stays
until it is answered, so a lost connection loses nothing: the agent says which one it had last.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from blindsum.actors.cluster import Answered, Died, Outcome, Raised
from blindsum.actors.futures import after
from blindsum.actors.separate.failures import error_of
from blindsum.actors.separate.messages import INLINE, PART, Answer, Frame, Instruction
from blindsum.platform.errors import FederationError

Attachments = list[bytes | pa.Buffer]
_MOST_FLYING = 2**26  # bytes of a call's frames that the aggregators have not taken up
_MOST_FRAMES = 30_000  # of a call, as in a total
LEAST_VALUE = 2**24
"""The longest answer in bytes that has no model in it."""
_WITH_MODEL = ("release", "seal_state")

AddFrame = Callable[[int, pa.Buffer], "Future[Outcome]"]
"""Passes a frame to an aggregator, by its number; returns the outcome of the addition."""


@dataclass(eq=False)
class Call:
    """An instruction that is not answered yet.

    Attributes:
        attached: what travels with the instruction.
        parts: frames that the agent fetches, by digest.
        add: takes the frames that the silo sends meanwhile; None if the method sends none.
        outcome: resolved once, with the answer or with the reason why there is none.
        added: outcomes of the frames that arrived, by digest.
        flying: sizes of the frames that have no outcome yet, by digest.
        values: parts of the answer that arrived ahead of it, by digest.
    """

    instruction: Instruction
    attached: Attachments
    parts: dict[str, pa.Buffer]
    add: AddFrame | None
    outcome: Future[Outcome] = field(default_factory=Future)
    added: dict[str, Future[Outcome]] = field(default_factory=dict)
    flying: dict[str, int] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)


class Mailbox:
    """The mailbox of one silo.

    Attributes:
        woken: called, in any thread, when there is a new instruction.
        life: counts the agent's starts, as far as the coordinator noticed.
        most_value: the longest answer with a model in bytes.
    """

    def __init__(self, silo: str) -> None:
        self.silo = silo
        self.woken: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._number = 0
        self._open: dict[int, Call] = {}
        self.life = 0
        self.heard: float | None = None
        self.parked = 0
        self.most_value = LEAST_VALUE

    def post(
        self,
        method: Any,
        run: str,
        life: int,
        messages: Sequence[bytes] = (),
        frames: Sequence[tuple[int, pa.Buffer]] = (),
        add: AddFrame | None = None,
        **fields: Any,
    ) -> Future[Outcome]:
        """Post an instruction; returns its outcome to be.

        Args:
            life: the agent's life for which it is meant; a later one does not know the run.
            frames: a total's frames, each with its aggregator's number.
        """
        inline = sum(len(one) for _, one in frames) <= INLINE
        digests = ["" if inline else _sha256(one) for _, one in frames]
        listed = tuple(
            Frame(aggregator=index, digest=digest, size=len(one))
            for (index, one), digest in zip(frames, digests, strict=True)
        )
        attached: Attachments = [*messages, *(one for _, one in frames if inline)]
        parts = {d: one for d, (_, one) in zip(digests, frames, strict=True) if d}
        with self._lock:
            if life != self.life:
                return _done(Died(reason="its agent was started again"))
            self._number += 1
            instruction = Instruction(
                number=self._number,
                run=run,
                method=method,
                messages=len(messages),
                frames=listed,
                **fields,
            )
            call = self._open[self._number] = Call(instruction, attached, parts, add)
        self.woken()
        return call.outcome

    def since(self, after: int) -> list[Call]:
        """Return the calls after that number, oldest first, at most 16."""
        with self._lock:
            return [call for number, call in sorted(self._open.items()) if number > after][:16]

    def hear(self) -> None:
        """Note that the agent sent something authentic."""
        self.heard = time.monotonic()

    def silent_s(self) -> float:
        """Return the seconds since the agent was heard; infinite if it never was. While one of its
        polls is parked, on a connection that is not closed, it counts as heard: that is at most
        PARK_S."""
        if self.parked:
            return 0.0
        return float("inf") if self.heard is None else time.monotonic() - self.heard

    def part(self, digest: str) -> pa.Buffer:
        """Return a part of a total. Raises FederationError if no open call has it."""
        with self._lock:
            for call in self._open.values():
                if digest in call.parts:
                    return call.parts[digest]
        raise FederationError("there is no such part, or its call was answered")

    def receive_frame(self, number: int, aggregator: int, content: bytes) -> Future[Outcome]:
        """Pass on a frame that a silo sent ahead of its answer; a second time changes nothing.

        Raises:
            FederationError: that call takes no frames, or not so many.
        """
        call = self._call(number)
        digest = _sha256(content)
        with self._lock:
            if call.add is None:
                raise FederationError(f"instruction {number} takes no frames")
            if digest in call.added:
                return call.added[digest]
            flying = sum(list(call.flying.values())) + len(content)
            if flying > _MOST_FLYING or len(call.added) >= _MOST_FRAMES:
                raise FederationError(f"instruction {number} takes no more frames now")
            call.flying[digest] = len(content)
            added = call.added[digest] = call.add(aggregator, pa.py_buffer(content))
        added.add_done_callback(lambda _: call.flying.pop(digest, None))
        return added

    def receive_value(self, number: int, content: bytes) -> None:
        """Keep a part of an answer that is to come.

        Raises:
            FederationError: the answer would be longer than any.
        """
        call = self._call(number)
        with self._lock:
            call.values[_sha256(content)] = content
            size, most = sum(map(len, call.values.values())), self._most(call)
            if size > most or len(call.values) > most // PART + 1:
                call.values.clear()
                raise _too_long(most)

    def receive(self, answer: Answer, attached: Sequence[memoryview]) -> None:
        """Take an answer. One that is not awaited, or no longer, is dropped.

        Args:
            attached: the parts of its value and its frames that travelled with it, in order.

        Raises:
            FederationError: parts are missing or are not as announced, or the answer is too long.
        """
        with self._lock:
            call = self._open.get(answer.number)
        if call is None:
            return
        if answer.outcome == "raised" and answer.failure is None:
            raise FederationError("received a failure without its kind")
        # Before anything is joined: a part may be listed often.
        if sum(one.size for one in answer.value) > self._most(call):
            raise _too_long(self._most(call))
        left = iter(attached)
        value = b"".join(self._content(call, one, left) for one in answer.value)
        for one in answer.frames:
            self.receive_frame(answer.number, one.aggregator, self._content(call, one, left))
        with self._lock:
            self._open.pop(answer.number, None)
        if answer.outcome == "died":
            return _resolve(call, Died())
        if answer.failure and answer.outcome == "raised":
            return _resolve(call, Raised(error_of(answer.failure, self.silo)))
        return _after_frames(call, Answered(value or None))

    def give_up(self, reason: str) -> None:
        """End this life: every open call has the outcome Died, and later calls of this life too.
        The agent counts as away until it is heard again."""
        with self._lock:
            self.life += 1
            self.heard = None
            lost, self._open = self._open, {}
        for call in lost.values():
            _resolve(call, Died(reason=reason))

    def _call(self, number: int) -> Call:
        with self._lock:
            call = self._open.get(number)
        if call is None:
            raise FederationError(f"instruction {number} is not open")
        return call

    def _most(self, call: Call) -> int:
        return self.most_value if call.instruction.method in _WITH_MODEL else LEAST_VALUE

    def _content(self, call: Call, frame: Frame, left: Any) -> bytes:
        content = call.values.get(frame.digest) if frame.digest else next(left, None)
        if content is None or len(content) != frame.size:
            raise FederationError("a part of an answer is missing or has another length")
        return bytes(content)


def _after_frames(call: Call, outcome: Outcome) -> None:
    """Resolve a call once every frame is added; a refused frame is the call's outcome instead."""

    def resolve() -> None:
        refused = [f.result() for f in call.added.values() if not isinstance(f.result(), Answered)]
        _resolve(call, refused[0] if refused else outcome)

    after(call.added.values(), resolve)


def _resolve(call: Call, outcome: Outcome) -> None:
    with suppress(InvalidStateError):  # another thread gave the call up
        call.outcome.set_result(outcome)


def _too_long(most: int) -> FederationError:
    return FederationError(f"the answer is longer than {most} bytes")


def _done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _sha256(content: bytes | pa.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()

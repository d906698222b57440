"""An object that threads of this process call, one call at a time, as a process of its own would.

A peer "dies" when it raises `Killed`, or by `die`: every call that has not ended is given up at
once. A thread that is stuck stays stuck, and its answer is dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from blindsum.actors.futures import after
from blindsum.actors.silo_actor import ASIDE

_LANES = {**dict.fromkeys(ASIDE, 1), "outgoing": 2}
"""Methods that answer at any time, by the thread that serves them; 0 serves the others."""

Answer = Future[Any]


class Killed(BaseException):
    """Raised inside a peer to simulate the death of its process."""


class InputGone(Exception):
    """A peer that was to provide an input died."""


class ThreadPeer:
    """An object that one thread calls, another the methods of ASIDE, and further threads
    `outgoing`, as `blindsum.actors.separate.relay` has it.

    Args:
        make: makes the object, in the peer's own thread.
        outgoing: the number of threads for `outgoing`.
        dead: set once the peer is dead.
    """

    def __init__(
        self, make: Callable[[], Any], outgoing: int = 2, dead: threading.Event | None = None
    ) -> None:
        self._dead = dead or threading.Event()
        self._open: set[Answer] = set()
        self._lock = threading.Lock()
        self._work: list[queue.SimpleQueue[Callable[[], None]]] = [
            queue.SimpleQueue() for _ in range(3)
        ]
        first, aside, sending = self._work
        self._served = [first, aside, *[sending] * outgoing]  # calls of `outgoing` may overlap
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), daemon=True) for lane in self._served
        ]
        for thread in self._threads:
            thread.start()
        self._made: Answer = Future()
        self._work[0].put(lambda: self._make(make))

    @property
    def object(self) -> Any:
        """The object itself. Raises what its maker raised."""
        return self._made.result()

    def call(self, method: str, arguments: Sequence[Any]) -> Answer:
        """Call a method once every answer among its arguments has arrived."""
        answer: Answer = Future()
        with self._lock:
            self._open.add(answer)
        lane = self._work[_LANES.get(method, 0)]
        inputs = [one for one in arguments if isinstance(one, Future)]
        after(inputs, lambda: lane.put(lambda: self._run(method, arguments, answer)))
        if self._dead.is_set():
            self.die()
        return answer

    def die(self) -> None:
        """Give up every call that has not ended, and every later one. Threads end once they have
        finished what they are doing."""
        self._dead.set()
        for lane in self._served:
            lane.put(lambda: None)  # wakes a thread that waits
        self._made.cancel()  # no thread waits for an object that will not be made
        with self._lock:
            lost, self._open = self._open, set()
        for answer in lost:
            resolve(answer, Killed())

    def _run(self, method: str, arguments: Sequence[Any], answer: Answer) -> None:
        if self._dead.is_set():
            return self.die()
        try:
            given = [_input(one) if isinstance(one, Future) else one for one in arguments]
            value = getattr(self.object, method)(*given)
        except Killed:
            return self.die()
        except BaseException as error:  # noqa: BLE001 - the caller receives it
            value = error
        with self._lock:
            self._open.discard(answer)
        if not self._dead.is_set():
            resolve(answer, value)
        return None

    def _make(self, make: Callable[[], Any]) -> None:
        try:
            resolve(self._made, make())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the object receives it
            resolve(self._made, error)
            self.die()

    def _serve(self, work: queue.SimpleQueue[Callable[[], None]]) -> None:
        while not self._dead.is_set():
            work.get()()

    def join(self, until_s: float) -> bool:
        """Wait for the threads of a dead peer, at most until that time of the monotonic clock;
        return whether all have ended."""
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def resolve(answer: Answer, value: Any) -> None:
    """Give an answer, unless it has one: a peer may be killed while it returns."""
    with suppress(InvalidStateError):
        if isinstance(value, BaseException):
            answer.set_exception(value)
        else:
            answer.set_result(value)


def _input(answer: Answer) -> Any:
    try:
        return answer.result()
    except Killed:
        raise InputGone from None

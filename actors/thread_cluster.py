"""A cluster whose peers are threads of this process: for simulations, and so that tests of failures
need not start Ray.

Messages, frames, checks and order are those of `blindsum.actors.ray_cluster`; only the separation
of processes is missing. A peer "dies" when it raises `Killed`, or by `kill`. A thread that is stuck
when its peer is killed stays stuck, and its answer is dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import pyarrow as pa

from blindsum.actors.aggregator import CALLS as AGGREGATOR_CALLS
from blindsum.actors.aggregator import Aggregator
from blindsum.actors.channel import IN_FLIGHT
from blindsum.actors.cluster import Answered, Died, Handle, InputLost, Outcome, Raised
from blindsum.actors.codec import encoded
from blindsum.actors.futures import after, ended
from blindsum.actors.messages import SiloSpec
from blindsum.actors.shell import shell
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import ASIDE
from blindsum.actors.silo_actor import CALLS as SILO_CALLS
from blindsum.platform.errors import AggregatorLost, BlindsumError, FederationError

_LANES = {**dict.fromkeys(ASIDE, 1), "outgoing": 2}
"""Methods that answer at any time, by the thread that serves them; 0 serves the others."""

Answer = Future[Any]


class Killed(BaseException):
    """Raised inside a peer to simulate the death of its process."""


class _InputLost(Exception):
    """A peer that was to provide an input died."""


class ThreadPeer:
    """An object that one thread calls, and further threads for the methods of `_LANES`: one for
    each lane, two for `outgoing`, as `blindsum.actors.separate.relay` has them.

    Args:
        make: makes the object, in the peer's own thread.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._dead = threading.Event()
        self._open: set[Answer] = set()
        self._lock = threading.Lock()
        self._work: list[queue.SimpleQueue[Callable[[], None]]] = [
            queue.SimpleQueue() for _ in range(3)
        ]
        lanes = [*self._work, self._work[_LANES["outgoing"]]]  # calls of it may overlap
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), daemon=True) for lane in lanes
        ]
        for thread in self._threads:
            thread.start()
        self._made: Answer = Future()
        self._work[0].put(lambda: self._make(make))

    @property
    def object(self) -> Any:
        """The object itself, for tests that look inside."""
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
        for lane in (*self._work, self._work[_LANES["outgoing"]]):
            lane.put(lambda: None)  # wakes a thread that waits
        self._made.cancel()  # no thread waits for an object that will not be made
        with self._lock:
            lost, self._open = self._open, set()
        for answer in lost:
            _resolve(answer, Killed())

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
            _resolve(answer, value)
        return None

    def _make(self, make: Callable[[], Any]) -> None:
        try:
            _resolve(self._made, make())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the object receives it
            _resolve(self._made, error)
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


def _resolve(answer: Answer, value: Any) -> None:
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
        raise _InputLost from None


class ThreadChannel:
    """A silo's channel to aggregators that are threads."""

    def __init__(self, aggregators: Sequence[ThreadPeer]) -> None:
        self._aggregators = list(aggregators)
        self._flying: list[Answer] = []

    @property
    def aggregators(self) -> int:
        """The number of aggregators."""
        return len(self._aggregators)

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        """Send a frame. If too many are in flight, wait for the oldest."""
        self._flying.append(self._aggregators[aggregator].call("add", [frame]))
        while len(self._flying) > IN_FLIGHT:
            self._get(self._flying.pop(0))

    def settle(self) -> None:
        """Wait until every frame is added."""
        flying, self._flying = self._flying, []
        for one in flying:
            self._get(one)

    def fetch(self, reference: Answer) -> list[pa.Buffer]:
        """Return the frames behind a reference."""
        return list(self._get(reference))

    def _get(self, answer: Answer) -> Any:
        try:
            return answer.result()
        except Killed:
            raise AggregatorLost("the aggregator's process died") from None
        except BlindsumError:
            raise
        except Exception:  # noqa: BLE001 - as RayChannel: the aggregator's own text stays there
            raise FederationError("the aggregator failed unexpectedly") from None


class ThreadCluster:
    """A `Cluster` of threads.

    Args:
        silo, aggregator: classes with the same methods, for tests that look inside.
        shelled: a class of silos that is called with bytes, in place of `silo`.

    Attributes:
        returning: names of lost silos that can be started again.
    """

    def __init__(
        self,
        silo: type[Silo] = Silo,
        aggregator: type[Aggregator] = Aggregator,
        shelled: type | None = None,
    ) -> None:
        channelled = type(silo.__name__, (silo,), {"_channel": lambda _, to: ThreadChannel(to)})
        self._silo = shelled or shell(channelled, SILO_CALLS, (SiloSpec,), own_process=False)
        self.returning: set[str] = set()
        self._peers: list[ThreadPeer] = []
        self._aggregator = shell(aggregator, AGGREGATOR_CALLS, own_process=False)

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, ThreadPeer]:
        """As `Cluster.start_silos`."""
        started = {name: ThreadPeer(self._maker(spec)) for name, spec in specs.items()}
        self._peers.extend(started.values())
        return started

    def _maker(self, spec: SiloSpec) -> Callable[[], Any]:
        return lambda: self._silo(encoded(spec))

    def returned(self, lost: Collection[str]) -> list[str]:
        """As `Cluster.returned`: those that a test lets return."""
        return [name for name in lost if name in self.returning]

    def start_aggregators(self, count: int, keep: bool) -> list[ThreadPeer]:
        """As `Cluster.start_aggregators`."""

        def maker(index: int) -> Callable[[], Any]:
            return lambda: self._aggregator(index, count, keep)

        started = [ThreadPeer(maker(index)) for index in range(count)]
        self._peers.extend(started)
        return started

    def call(
        self, peer: ThreadPeer, method: str, *arguments: Any, answers: int = 1
    ) -> list[Handle]:
        """As `Cluster.call`."""
        whole = peer.call(method, arguments)
        return [whole] if answers == 1 else [_part(whole, index) for index in range(answers)]

    def wait(
        self, handles: Sequence[Answer], count: int, timeout_s: float
    ) -> dict[Handle, Outcome]:
        """As `Cluster.wait`."""
        return {answer: _outcome(answer) for answer in ended(handles, count, timeout_s)}

    def kill(self, peer: ThreadPeer) -> None:
        """As `Cluster.kill`, except that a stuck thread stays stuck."""
        peer.die()

    def close(self, timeout_s: float) -> bool:
        """End every peer and wait for what they are doing, so that nothing uses their files any
        more; return whether all threads ended in time."""
        until_s = time.monotonic() + timeout_s
        peers, self._peers = self._peers, []
        for peer in peers:
            peer.die()
        over = [peer.join(until_s) for peer in peers]
        return all(over)


def _part(whole: Answer, index: int) -> Answer:
    part: Answer = Future()

    def resolve(done: Answer) -> None:
        error = done.exception()
        _resolve(part, error if error else done.result()[index])

    whole.add_done_callback(resolve)
    return part


def _outcome(answer: Answer) -> Outcome:
    error = answer.exception()
    if error is None:
        return Answered(answer.result())
    if isinstance(error, Killed):
        return Died()
    if isinstance(error, _InputLost):
        return InputLost()
    return Raised(error)

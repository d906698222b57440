"""A cluster whose peers are threads of this process: for simulations, and so that tests of failures
need not start Ray.

Messages, frames, checks and order are those of `blindsum.actors.ray_cluster`; only the separation
of processes is missing. A peer "dies" when it raises `Killed`, or by `kill`. A thread that is stuck
when its peer is killed stays stuck, and its answer is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from blindsum.actors.aggregator import CALLS as AGGREGATOR_CALLS
from blindsum.actors.aggregator import Aggregator
from blindsum.actors.channel import IN_FLIGHT
from blindsum.actors.cluster import Answered, Died, Handle, InputLost, Outcome, Raised
from blindsum.actors.codec import encoded
from blindsum.actors.futures import ended
from blindsum.actors.messages import SiloSpec
from blindsum.actors.shell import shell
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import CALLS as SILO_CALLS
from blindsum.actors.thread_peer import Answer, InputGone, Killed, ThreadPeer, resolve
from blindsum.platform.errors import AggregatorLost, BlindsumError, FederationError


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

    def settle(done: Answer) -> None:
        error = done.exception()
        resolve(part, error if error else done.result()[index])

    whole.add_done_callback(settle)
    return part


def _outcome(answer: Answer) -> Outcome:
    error = answer.exception()
    if error is None:
        return Answered(answer.result())
    if isinstance(error, Killed):
        return Died()
    if isinstance(error, InputGone):
        return InputLost()
    return Raised(error)

"""The silo's end of an agent: a channel from which the agent takes the frames that the silo sends.

The silo's process has no connection to the coordinator. Its first frames, up to INLINE bytes,
return with its answer. Later ones stay in the process until the agent has taken them and says that
they arrived, at most IN_FLIGHT at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blindsum.actors.messages import SiloSpec
from blindsum.actors.separate.messages import INLINE
from blindsum.actors.shell import shell
from blindsum.actors.silo_actor import CALLS, thin_actor
from blindsum.platform.errors import BlindsumError, FederationError

if TYPE_CHECKING:
    from blindsum.actors.silo import Silo

IN_FLIGHT = 3
_PATIENCE_S = 5.0
"""The longest time for which `outgoing` waits before the agent asks again."""


class RelayChannel:
    """A `blindsum.actors.channel.Channel` whose frames the agent takes.

    Attributes:
        aggregators: the number of aggregators, from the coordinator.
    """

    def __init__(self) -> None:
        self.aggregators = 1
        self._changed = threading.Condition()
        self._held: list[tuple[int, pa.Buffer]] = []
        self._sent: list[tuple[int, pa.Buffer] | None] = []
        self._arrived = self._turn = self._asked = 0
        self._failure: BlindsumError | None = None

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        """Offer a frame to the agent; wait while too many have not arrived."""
        with self._changed:
            if not self._sent and sum(len(one) for _, one in self._held) + len(frame) <= INLINE:
                self._held.append((aggregator, frame))
                return
            self._changed.wait_for(
                lambda: self._failure or len(self._sent) - self._arrived < IN_FLIGHT
            )
            self._require_no_failure()
            self._sent.append((aggregator, frame))
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until every frame has arrived that does not return with the answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._arrived == len(self._sent))
            self._require_no_failure()

    def fetch(self, reference: Any) -> list[pa.Buffer]:
        """Kept uploads are not sent to other clusters.

        Raises:
            FederationError: always.
        """
        raise FederationError("kept uploads cannot be fetched from another cluster")

    def take(
        self, turn: int, number: int, arrived: int, failure: BlindsumError | None = None
    ) -> tuple[int, pa.Buffer] | None:
        """Return a frame, once there is one.

        Args:
            turn: how many calls that send have ended before.
            number: of the frame within this call, from 0, without those that return with the
                answer.
            arrived: how many frames of this call have arrived.
            failure: why a frame did not arrive; the silo's call ends with it.

        Returns:
            The aggregator's number and the frame; None if there is none yet, if the agent asks once
            more in the meantime, or if the call has ended.
        """
        with self._changed:
            if turn == self._turn:
                self._arrived = max(self._arrived, min(arrived, len(self._sent)))
                self._failure = self._failure or failure
                for before in range(self._arrived):
                    self._sent[before] = None
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: turn != self._turn or number < len(self._sent) or mine != self._asked,
                _PATIENCE_S,
            )
            return self._sent[number] if turn == self._turn and number < len(self._sent) else None

    def end_turn(self) -> list[tuple[int, pa.Buffer]]:
        """Note that a call which may send has ended; return the frames that go with its answer."""
        with self._changed:
            self._turn += 1
            held, self._held = self._held, []
            self._sent, self._arrived, self._failure = [], 0, None
            self._changed.notify_all()
            return held

    def _require_no_failure(self) -> None:
        if self._failure:
            raise self._failure


def relayed(silo: type[Silo], owner_file: str, own_process: bool = True) -> type:
    """Return a silo's class as an agent calls it.

    Args:
        owner_file: the path of the owner's file. It comes from the owner, who starts the agent.
        own_process: as in `blindsum.actors.shell.shell`.
    """

    class OfAgent(silo):  # type: ignore[misc, valid-type]
        def __init__(self, spec: Any) -> None:
            super().__init__(spec, owner_file)
            self._relay = RelayChannel()

        def _channel(self, aggregators: Any) -> RelayChannel:
            self._relay.aggregators = aggregators
            return self._relay

    return _taking_turns(OfAgent, own_process)


def _taking_turns(silo: type, own_process: bool) -> type:
    """Wrap a silo's class for calls by bytes. `train` and `evaluate` return their answer with the
    first frames, and `outgoing` the others."""
    inner: Any = shell(silo, CALLS, (SiloSpec,), own_process)

    class Relaying(inner):  # type: ignore[misc]
        def train(self, *arguments: Any) -> Any:
            return self._with_frames(super().train, arguments)

        def evaluate(self, *arguments: Any) -> Any:
            return self._with_frames(super().evaluate, arguments)

        def _with_frames(self, method: Callable[..., bytes], arguments: Any) -> Any:
            frames: list[tuple[int, pa.Buffer]] = []
            try:
                answer = method(*arguments)
            finally:
                frames = self._relay.end_turn()
            return answer, frames

        def outgoing(
            self, turn: int, number: int, arrived: int, failure: BlindsumError | None = None
        ) -> tuple[int, pa.Buffer] | None:
            taken: tuple[int, pa.Buffer] | None
            taken = self._relay.take(turn, number, arrived, failure)
            return taken

    Relaying.__name__ = Relaying.__qualname__ = "Silo"
    return Relaying


def as_agents_actor(owner_file: str) -> Any:
    """Return the Ray actor class of a silo that an agent calls.

    Two threads serve `outgoing`: the agent says that a frame has arrived while it waits for the
    next one.
    """

    def load() -> type:
        from blindsum.actors.silo import Silo

        return relayed(Silo, owner_file)

    return thin_actor(load, (*CALLS, "outgoing"), outgoing=2)

"""Waiting for answers from silos and aggregators, with deadlines and interrupts."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from blindsum.actors.answers import value_of
from blindsum.actors.cluster import Cluster, Died, Handle, Outcome
from blindsum.actors.codec import decoded
from blindsum.actors.handles import Reply, is_aggregator
from blindsum.actors.heartbeat import Heartbeats
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    SiloLost,
    in_one,
)

T = TypeVar("T")
POLL_S = 1.0
OTHER_FAULTS_S = 60.0
"""How long a run that cannot start waits for the other silos' faults, to name them all at once."""

DEAD_TOGETHER_S = 3.0
"""Ray notices a killed process within about 2 s."""


class Waiting:
    """A waiter for the replies of one cluster's peers.

    Args:
        interrupted: set by a signal's handler, and checked once a second. Python can lose a
            KeyboardInterrupt that is raised inside a destructor, and Ray has many.
    """

    def __init__(self, cluster: Cluster, interrupted: threading.Event) -> None:
        self._cluster, self._interrupted = cluster, interrupted

    def gather(self, replies: Sequence[Reply[T]], doing: str, deadline_s: float) -> dict[str, T]:
        """Return every answer, by its peer's name, in the order of `replies`.

        Args:
            doing: what the peers were asked to do, for errors.

        Raises:
            SiloLost, AggregatorLost: a process died, or the deadline passed. The first failure
                ends the waiting.
            FederationError: an answer is not the message that was requested.
            BlindsumError: a peer raised this error.
        """
        asked = {one.handle: one for one in replies}
        answers: dict[str, T] = {}
        end = time.monotonic() + deadline_s
        waiting = list(asked)
        while waiting:
            outcomes = self._wait(waiting, 1, end)
            if not outcomes:
                raise late([asked[handle].peer for handle in waiting], doing, deadline_s)
            for handle, outcome in outcomes.items():
                reply = asked[handle]
                answers[reply.peer] = _read(reply, value_of(outcome, reply.peer, doing), doing)
            waiting = [handle for handle in waiting if handle not in outcomes]
        return {one.peer: answers[one.peer] for one in replies}

    def gather_faults(
        self, replies: Sequence[Reply[T]], doing: str, beats: Heartbeats
    ) -> dict[str, T]:
        """Return every answer, as `gather` does; the faults of all peers are raised as one error.

        A silo that says that it is at work is waited for beyond the deadline. After the first
        fault, the other peers have at most OTHER_FAULTS_S to name theirs. Lost peers are not waited
        for twice: without a fault, the first loss is raised as `gather` does.

        Args:
            beats: the signs of life of these silos.
        """
        asked = {one.handle: one for one in replies}
        answers: dict[str, T] = {}
        faults: dict[str, BlindsumError] = {}
        losses: list[BlindsumError] = []
        end = math.inf
        waiting = list(asked)
        while waiting and time.monotonic() < end:
            silos = [asked[handle].peer for handle in waiting]
            handles = [*waiting, *beats.ask(silos)]
            outcomes = self._wait(handles, 1, min(end, beats.due(silos)))
            for handle, outcome in outcomes.items():
                if handle not in asked:
                    beats.hear(handle, outcome)
                    continue
                reply = asked[handle]
                try:
                    answers[reply.peer] = _read(reply, value_of(outcome, reply.peer, doing), doing)
                except (SiloLost, AggregatorLost) as lost:
                    losses.append(lost)
                except BlindsumError as fault:
                    if not faults:
                        end = time.monotonic() + OTHER_FAULTS_S
                    faults[reply.peer] = fault
            waiting = [handle for handle in waiting if handle not in outcomes]
            silent, within_s = beats.lost([asked[handle].peer for handle in waiting])
            if silent:
                waiting = [handle for handle in waiting if asked[handle].peer not in silent]
                losses.append(late(silent, doing, within_s))
            if losses and not faults:
                raise losses[0]
        if faults:
            named = [faults[one.peer] for one in replies if one.peer in faults]
            raise in_one(named, of_all=len(named) == len(replies))
        return {one.peer: answers[one.peer] for one in replies}

    def settle(self, replies: Iterable[Reply[Any]], deadline_s: float) -> None:
        """Wait until those calls have ended, whatever their outcome, so that the peers are idle.

        Raises:
            SiloLost, AggregatorLost: some calls did not end in time.
        """
        asked = {one.handle: one.peer for one in replies}
        end = time.monotonic() + deadline_s
        waiting = list(asked)
        while waiting:
            outcomes = self._wait(waiting, len(waiting), end)
            if not outcomes:
                raise late([asked[handle] for handle in waiting], "end the attempt", deadline_s)
            waiting = [handle for handle in waiting if handle not in outcomes]

    def dead(self, pings: Sequence[Reply[None]]) -> list[str]:
        """Return which of the pinged peers have died.

        A peer that does not answer within DEAD_TOGETHER_S counts as alive: a deadline will show.
        """
        asked = {one.handle: one.peer for one in pings}
        if not asked:
            return []
        outcomes = self._cluster.wait(list(asked), len(asked), DEAD_TOGETHER_S)
        return [asked[handle] for handle, what in outcomes.items() if isinstance(what, Died)]

    def _wait(self, handles: list[Handle], count: int, end: float) -> dict[Handle, Outcome]:
        """Return the outcomes of some calls that have ended, or nothing once time is up."""
        while True:
            left = end - time.monotonic()
            outcomes = self._cluster.wait(handles, count, max(0.0, min(left, POLL_S)))
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if outcomes or left <= POLL_S:
                return outcomes


def _read(reply: Reply[T], answer: Any, doing: str) -> T:
    if reply.kind is None:
        return answer  # type: ignore[no-any-return]
    try:
        return decoded(answer, reply.kind)
    except FederationError:
        raise FederationError(
            f"'{reply.peer}' was asked to {doing}, and its answer is not of kind "
            f"{reply.kind.__name__}",
            "All silos must run the same version of blindsum.",
        ) from None


def late(peers: list[str], doing: str, deadline_s: float) -> FederationError:
    """Return the error for peers that did not answer in time. It names silos first, because an
    aggregator waits for them."""
    silos = list(dict.fromkeys(peer for peer in peers if not is_aggregator(peer)))
    what = f"no answer within {deadline_s:g} s when asked to {doing}"
    hint = "Look at that node, or raise deadlines.start_s or deadlines.round_s."
    if silos:
        return SiloLost(what, hint, silo=", ".join(silos))
    return AggregatorLost(f"{peers[0]}: {what}", hint)

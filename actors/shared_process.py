"""Several simulated silos in this process, each an object of its own with threads of its own.

They share imports and Ray's share of a process, and so the memory: this process could read every
record and every key of all of them. Each has its own folder, identity, ledger, keys and state, as a
silo has in a process of its own, and its own end.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from blindsum.actors.channel import Channel
from blindsum.actors.messages import SiloSpec
from blindsum.actors.shell import Call, shell
from blindsum.actors.silo import Silo
from blindsum.actors.thread_peer import Answer, Killed, ThreadPeer
from blindsum.platform.errors import FederationError


class SharedProcess:
    """The silos of one process.

    Args:
        silo: the silos' class.
        calls: the methods that other processes may call.
        spec: one silo's specification; those of the others differ in their name alone.
        names: the silos' names.
    """

    def __init__(
        self, silo: type[Silo], calls: Mapping[str, Call], spec: SiloSpec, names: Collection[str]
    ) -> None:
        self._calls = frozenset(calls)
        self._silos = {
            name: _peer_of(silo, calls, replace(spec, name=name)) for name in dict.fromkeys(names)
        }
        for one in self._silos.values():
            _ = one.object  # raises what its constructor raised

    def call(self, silo: str, method: str, arguments: Sequence[Any]) -> Answer:
        """Call a silo's method. The answer of a silo that has ended, or ends before it answers, is
        `Killed`.

        Raises:
            FederationError: other processes may not call this method.
        """
        if method not in self._calls:
            raise FederationError("a silo was asked for something that no silo does")
        if silo not in self._silos:
            answer: Answer = Answer()
            answer.set_exception(Killed())
            return answer
        return self._silos[silo].call(method, arguments)

    def end(self, silo: str) -> None:
        """End one silo: it answers nothing more, begins nothing more, and sends nothing more.
        What it is doing goes on until its next step, unseen. The others notice nothing."""
        if ended := self._silos.pop(silo, None):
            ended.die()


class _UntilItsEnd:
    """A silo's channel, through which it sends nothing once it has ended."""

    def __init__(self, channel: Channel, ended: threading.Event) -> None:
        self._channel, self._ended = channel, ended

    @property
    def aggregators(self) -> int:
        return self._channel.aggregators

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        if self._ended.is_set():
            raise Killed
        self._channel.send(aggregator, frame)

    def settle(self) -> None:
        self._channel.settle()

    def fetch(self, reference: Any) -> list[pa.Buffer]:
        return self._channel.fetch(reference)


def _peer_of(silo: type[Silo], calls: Mapping[str, Call], spec: SiloSpec) -> ThreadPeer:
    ended = threading.Event()

    class Ending(silo):  # type: ignore[misc, valid-type]
        def _channel(self, aggregators: Sequence[Any]) -> Channel:
            return _UntilItsEnd(super()._channel(aggregators), ended)

    Ending.__name__ = silo.__name__
    made = shell(Ending, calls, own_process=False)
    return ThreadPeer(lambda: made(spec), outgoing=0, dead=ended)

"""The port through which the federation starts silos and aggregators and calls them.

The federation reaches its peers only through `Cluster`. `blindsum.actors.ray_cluster` runs every
peer as a Ray actor; `blindsum.actors.thread_cluster` runs them as threads of this process, for
tests of failures. Messages are bytes (`blindsum.actors.codec`) and frames of ciphertext.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blindsum.actors.messages import SiloSpec

Peer = Any
"""A silo or an aggregator, in the cluster's own form."""

Handle = Any
"""An answer that may not have arrived yet, in the cluster's own form. A handle passed as an
argument of a call is replaced by its answer before the call begins; a handle inside a list is
passed on unchanged."""


@dataclass(frozen=True)
class Answered:
    """The peer answered."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The peer raised an error."""

    error: BaseException


@dataclass(frozen=True)
class Died:
    """The peer's process is gone. `started` is False if it never ran; `reason` is for people;
    `together` are all silos that shared the process, if any did."""

    started: bool = True
    reason: str = ""
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputLost:
    """The call never began, because a peer that was to provide one of its inputs died."""


@dataclass(frozen=True)
class Unreachable:
    """The cluster itself failed to deliver an answer."""

    reason: str


Outcome = Answered | Raised | Died | InputLost | Unreachable


class Cluster(Protocol):
    """A place that starts the peers of one run, calls them, waits for their answers and ends
    them."""

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, Peer]:
        """Start every silo of the roster; returns the peers by name.

        Raises:
            ClusterError: a silo has no place to run.
        """

    def returned(self, lost: Collection[str]) -> list[str]:
        """Return which of the silos that were lost can be started again now."""

    def start_aggregators(self, count: int, keep: bool) -> list[Peer]:
        """Start aggregators; returns them in the order of their ranges.

        Args:
            keep: whether they keep the uploads of the sum that they closed last.
        """

    def call(self, peer: Peer, method: str, *arguments: Any, answers: int = 1) -> list[Handle]:
        """Call a method; returns handles of its answers at once.

        Args:
            answers: the number of values that the method returns.
        """

    def wait(
        self, handles: Sequence[Handle], count: int, timeout_s: float
    ) -> dict[Handle, Outcome]:
        """Wait until `count` of the handles have an outcome, or time is up; returns all outcomes
        that have arrived."""

    def kill(self, peer: Peer) -> None:
        """End a peer at once. It must neither answer any more nor wake up later."""

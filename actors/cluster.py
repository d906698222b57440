"""Where silos and aggregators run, and how the federation reaches them: the port and its answers.

The federation calls its peers through `Cluster` alone. `blindsum.actors.ray_cluster` runs every
peer as a Ray actor; `blindsum.actors.thread_cluster` runs them as threads of this process, for
tests of failures. Messages are bytes (`blindsum.actors.codec`) and frames of ciphertext.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blindsum.actors.messages import SiloSpec

Peer = Any
"""A silo or an aggregator, as its cluster knows it."""

Handle = Any
"""An answer that may not be there yet, as its cluster knows it. A handle that is an argument of a
call is replaced by its answer before the call begins; one inside a list is passed on as it is."""


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
    """The peer's process is gone. `started` is False if it never ran; `reason` is for people."""

    started: bool = True
    reason: str = ""


@dataclass(frozen=True)
class InputLost:
    """The call never began: one of its inputs was to come from a peer that died."""


@dataclass(frozen=True)
class Unreachable:
    """No answer can be had, for a reason of the cluster's own."""

    reason: str


Outcome = Answered | Raised | Died | InputLost | Unreachable


class Cluster(Protocol):
    """Starts the peers of one run, calls them, waits for their answers, and ends them."""

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, Peer]:
        """Start every silo of the roster, by name.

        Raises:
            ClusterError: a silo has no place to run.
        """

    def start_aggregators(self, count: int, keep: bool) -> list[Peer]:
        """Start aggregators, in the order of their ranges.

        Args:
            keep: they hold on to the uploads of the sum that they closed last.
        """

    def call(self, peer: Peer, method: str, *arguments: Any, answers: int = 1) -> list[Handle]:
        """Call a method; returns handles of its answers at once.

        Args:
            answers: how many the method returns.
        """

    def wait(
        self, handles: Sequence[Handle], count: int, timeout_s: float
    ) -> dict[Handle, Outcome]:
        """Wait until `count` of the handles have an outcome, or time is up; returns those that do."""

    def kill(self, peer: Peer) -> None:
        """End a peer at once. It must not answer any more, nor wake up."""

"""Handles through which the federation calls silos and aggregators: one typed method a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from blindsum.actors.cluster import Cluster, Handle, Peer
from blindsum.actors.codec import encoded
from blindsum.actors.messages import ApplyReport, TotalReport, TrainReport
from blindsum.actors.silo_messages import Inspection, Progress
from blindsum.he.exchange import Exchange
from blindsum.he.handover import StateRequest
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.platform.evaluation.figures import Metrics

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reply(Generic[T]):
    """A peer's answer that may not have arrived yet.

    Attributes:
        peer: the name of the silo, or the title of the aggregator, which contains a space.
        kind: the type of the message that must arrive; None if the answer is not checked.
    """

    peer: str
    handle: Handle
    kind: type[T] | None


@dataclass(frozen=True)
class SiloHandle:
    """One silo. Every method sends one message and returns at once."""

    name: str
    peer: Peer
    cluster: Cluster

    def inspect(self) -> Reply[Inspection]:
        """Ask it to check its data, model and plan."""
        return self._ask("inspect", Inspection)

    def restore(self, round: int) -> Reply[str]:
        """Ask it to return to the state after a round, and for its model's digest."""
        return self._ask("restore", str, encoded(round))

    def request_state(self) -> Reply[StateRequest]:
        """Ask it for its request to take over another silo's state."""
        return self._ask("request_state", StateRequest)

    def seal_state(self, request: StateRequest) -> Reply[bytes]:
        """Ask it to seal its state to a silo that comes back."""
        return self._ask("seal_state", None, encoded(request))

    def take_state(self, sealed: bytes) -> Reply[str]:
        """Hand it a sealed state, and ask for the model's digest."""
        return self._ask("take_state", str, [pa.py_buffer(sealed)])

    def forget(self) -> Reply[None]:
        """Tell it that the run has ended well."""
        return self._ask("forget", None)

    def introduce(self) -> Reply[Introduction]:
        """Ask it to begin a key ceremony."""
        return self._ask("introduce", Introduction)

    def contribute(self, introductions: bytes) -> Reply[Contribution]:
        """Ask for its sealed part of the keys, with all introductions as `encoded` writes them."""
        return self._ask("contribute", Contribution, introductions)

    def agree(self, contributions: bytes) -> Reply[Agreement]:
        """Ask for its signature of the ceremony, with its copies of all contributions."""
        return self._ask("agree", Agreement, contributions)

    def finish(self, agreements: bytes, aggregators: Sequence[AggregatorHandle]) -> Reply[None]:
        """Ask it to take up the keys, with all agreements, and to reserve its plan."""
        return self._ask("finish", None, agreements, [one.peer for one in aggregators])

    def train(self, update: Exchange, opened: Sequence[Reply[None]]) -> Reply[TrainReport]:
        """Request an update, once the aggregators expect it."""
        return self._ask("train", TrainReport, encoded(update), *(one.handle for one in opened))

    def apply(self, update: Exchange, total: Total) -> Reply[ApplyReport]:
        """Request that the silo applies a total."""
        return self._ask("apply", ApplyReport, encoded(update), total.uploads, *total.frames)

    def evaluate(self, counts: Exchange, opened: Sequence[Reply[None]]) -> Reply[TrainReport]:
        """Request the counts of the newest model, once the aggregators expect them."""
        return self._ask("evaluate", TrainReport, encoded(counts), *(one.handle for one in opened))

    def read_metrics(self, counts: Exchange, total: Total) -> Reply[Metrics]:
        """Ask it to open the total of those counts."""
        return self._ask("read_metrics", Metrics, encoded(counts), total.uploads, *total.frames)

    def release(self, round: int) -> Reply[bytes]:
        """Request the model after a round, as `encoded_models` writes it."""
        return self._ask("release", None, encoded(round))

    def progress(self) -> Reply[Progress]:
        """Ask how far it is with reading its data."""
        return self._ask("progress", Progress)

    def ping(self) -> Reply[None]:
        """Request a sign of life."""
        return self._ask("ping", None)

    def kill(self) -> None:
        """End its process at once."""
        self.cluster.kill(self.peer)

    def _ask(self, method: str, kind: type[T] | None, *arguments: Any) -> Reply[T]:
        (handle,) = self.cluster.call(self.peer, method, *arguments)
        return Reply(self.name, handle, kind)


@dataclass(frozen=True)
class AggregatorHandle:
    """One aggregator. Every method sends one message and returns at once."""

    name: str
    peer: Peer
    cluster: Cluster

    def meet(self, identities: Mapping[str, bytes]) -> Reply[None]:
        """Tell it the silos' public identities."""
        return self._ask("meet", encoded(identities))

    def open(self, exchange: Exchange) -> Reply[None]:
        """Ask it to expect uploads to a new sum."""
        return self._ask("open", encoded(exchange))

    def total(
        self, exchange: Exchange, sent: Sequence[Reply[Any]]
    ) -> tuple[Reply[TotalReport], Handle]:
        """Request the closing of a sum once all silos have sent; returns its report and frames."""
        report, frames = self.cluster.call(
            self.peer, "total", encoded(exchange), *(one.handle for one in sent), answers=2
        )
        return Reply(self.name, report, TotalReport), frames

    def uploads(self, closed: Sequence[Reply[TotalReport]]) -> Handle:
        """Request every upload of the sum that was closed last, once all aggregators closed it."""
        (handle,) = self.cluster.call(self.peer, "uploads", *(one.handle for one in closed))
        return handle

    def kill(self) -> None:
        """End its process at once."""
        self.cluster.kill(self.peer)

    def _ask(self, method: str, *arguments: Any) -> Reply[None]:
        (handle,) = self.cluster.call(self.peer, method, *arguments)
        return Reply(self.name, handle, None)


@dataclass(frozen=True)
class Total:
    """A sum that the aggregators close: their reports, a handle of each aggregator's frames, and
    handles of the uploads, if uploads are kept."""

    reports: list[Reply[TotalReport]]
    frames: list[Handle]
    uploads: list[Handle]


def close_sum(
    aggregators: Sequence[AggregatorHandle],
    exchange: Exchange,
    sent: Sequence[Reply[Any]],
    keeps: bool,
) -> Total:
    """Have every aggregator close its range of a sum once all silos have sent.

    Args:
        sent: the silos' replies.
        keeps: whether the aggregators keep the uploads.
    """
    pairs = [one.total(exchange, sent) for one in aggregators]
    reports = [report for report, _ in pairs]
    uploads = [one.uploads(reports) for one in aggregators] if keeps else []
    return Total(reports, [frames for _, frames in pairs], uploads)


def is_aggregator(name: str) -> bool:
    """Return whether a peer's name is an aggregator's: silo names contain no space."""
    return " " in name


def aggregator_names(count: int) -> list[str]:
    """Return the titles of the aggregators, as messages name them."""
    if count == 1:
        return ["the aggregator"]
    return [f"aggregator {i + 1} of {count}" for i in range(count)]

"""A silo's channel to the aggregators: it sends frames of ciphertext and fetches uploads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from blindsum.platform.errors import AggregatorLost, BlindsumError, FederationError

IN_FLIGHT = 2
"""The most frames that a silo has sent and no aggregator has added yet. This bounds the memory of
the silo and the aggregators when an aggregator is slow."""


def shard(part: int, parts: int, aggregators: int) -> int:
    """Return which aggregator adds a part. Each adds a contiguous range of the parts."""
    return part * min(parts, aggregators) // parts


class Channel(Protocol):
    """A silo's way to the aggregators."""

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        """Send a frame. May wait until earlier frames are added.

        Raises:
            UploadRefused: the aggregator refused this frame or an earlier one.
        """

    def settle(self) -> None:
        """Wait until every frame is added. Raises as `send` does."""

    def fetch(self, reference: Any) -> list[pa.Buffer]:
        """Return the frames behind a reference."""

    @property
    def aggregators(self) -> int:
        """The number of aggregators."""


class RayChannel:
    """A channel to aggregators that are Ray actors. Frames pass through the object store, never
    through the driver."""

    def __init__(self, aggregators: Sequence[Any]) -> None:
        self._aggregators = list(aggregators)
        self._flying: list[ObjectRef[Any]] = []

    @property
    def aggregators(self) -> int:
        return len(self._aggregators)

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        self._flying.append(self._aggregators[aggregator].add.remote(frame))
        while len(self._flying) > IN_FLIGHT:
            _get(self._flying.pop(0))

    def settle(self) -> None:
        flying, self._flying = self._flying, []
        for ref in flying:
            _get(ref)

    def fetch(self, reference: Any) -> list[pa.Buffer]:
        return list(_get(reference))


def _get(ref: ObjectRef[Any]) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, BlindsumError):
            raise error.cause from None
        raise FederationError("the aggregator failed unexpectedly") from None
    except RayError:
        raise AggregatorLost(
            "the aggregator's process died", "Look at its node's memory and logs."
        ) from None

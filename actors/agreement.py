"""What the driver can check without any key: whether all silos say the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from blindsum.platform.errors import ModelsDiffer
from blindsum.platform.evaluation.figures import Metrics

T = TypeVar("T")


def same_digest(digests: Iterable[str], what: str, round: int | None = None) -> str:
    """Return the digest that all silos sent.

    Args:
        what: what it is the digest of, for the error.

    Raises:
        ModelsDiffer: two silos sent different ones.
    """
    different = set(digests)
    if len(different) != 1:
        raise ModelsDiffer(
            f"the silos' {what} differ: their digests are not equal",
            "All silos must run the same versions of blindsum, torch and numpy, and a "
            "model.factory must draw its weights only from torch's generator.",
            round=round,
        )
    return different.pop()


def same_size(sizes: Iterable[T]) -> T:
    """Return the size, or sizes, that all silos said. Raises ModelsDiffer if two differ."""
    different = set(sizes)
    if len(different) != 1:
        raise ModelsDiffer(
            "the silos' models have different numbers of parameters and yet the same digest",
            "A silo does not say the truth: do not start this job again.",
        )
    return different.pop()


def same_metrics(read: Iterable[Metrics]) -> Metrics:
    """Return the metrics that all silos decrypted. Raises ModelsDiffer if two differ."""
    found = list(read)
    if len({repr(one) for one in found}) > 1:
        raise ModelsDiffer(
            "the silos decrypted different metrics from the same total",
            "Do not continue this run.",
        )
    return found[0]

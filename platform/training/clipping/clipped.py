"""Types that all methods of per-record clipping share, and the factors that clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

STABLE = 1e-6  # as in Opacus: a record's gradient is scaled by min(1, C / (norm + 1e-6))

Records: TypeAlias = Any
"""Inputs of a model: a tensor, or tuples, lists and dicts of tensors. The first dimension of each
tensor counts the records."""


class Clipped(NamedTuple):
    """Sums of clipped gradients, by parameter. `within` is the number of records not clipped."""

    sums: list[Tensor]
    within: int


class ClippedSum(Protocol):
    """A method to sum a batch's gradients, each clipped to an L2 norm."""

    def __call__(self, features: Records, labels: Tensor, clip_norm: float) -> Clipped:
        """Return clipped sums, contiguous, in the order of the trainable parameters and with their
        shapes.

        Args:
            features: B records, float32 [B, features] or any other `Records`; B may be 0.
            labels: [B, ...], as the loss takes them.

        Raises:
            ModelError: the method cannot tell the records' gradients apart.
        """


def count(features: Records) -> int:
    """Return the number of records."""
    first: Tensor = features if isinstance(features, Tensor) else pytree.tree_leaves(features)[0]
    return first.shape[0]


def rows(features: Records, which: slice | Tensor) -> Records:
    """Return those records."""
    return pytree.tree_map(lambda leaf: leaf[which], features)


def of_no_record(parameters: Sequence[Tensor]) -> Clipped:
    """Return the sums of an empty sample. The model is not called: not every layer takes it."""
    return Clipped([torch.zeros_like(p) for p in parameters], 0)


class Factors(NamedTuple):
    """What each record's gradient is multiplied with, [B]. `whole` says that none of them is 0.

    A record with factor 0 may hold NaN or infinity, and zero times infinity is not zero.
    """

    values: Tensor
    whole: bool


def clip_factors(norms: Tensor, clip_norm: float) -> Factors:
    """Return the factors that clip gradients with those norms.

    A record that overflows counts as zero: a run that ended in NaN because of one record would
    reveal that the record is there.
    """
    values = (clip_norm / (norms + STABLE)).clamp(max=1.0).nan_to_num(0.0)
    return Factors(values, bool(values.all()))


def add_weighted(total: Tensor, factors: Factors, where: slice, gradients: Tensor) -> None:
    """Add the gradients of some records, [b, ...], each times its factor, to a contiguous total."""
    flat, values = gradients.reshape(gradients.shape[0], total.numel()), factors.values[where]
    if not factors.whole:
        flat = flat.masked_fill((values == 0)[:, None], 0.0)
    total.view(-1).addmv_(flat.T, values.to(total.dtype))

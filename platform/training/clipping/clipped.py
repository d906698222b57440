"""Types that all methods of per-record clipping share, and the factors that clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_LONGEST_SUM = 1 << 16
"""Most squares that are added up in float32: the norm of so many is right to 1 in 10^6."""

STABLE = 1e-6  # as in Opacus: a record's gradient is scaled by min(1, C / (norm + 1e-6))

Records: TypeAlias = Any
"""Inputs of a model: a tensor, or tuples, lists and dicts of tensors. The first dimension of each
tensor counts the records."""


Masks: TypeAlias = Sequence[Tensor] | None
"""The values of each parameter whose gradients count, bool, in the parameters' shapes. Gradients
outside are dropped before norms are taken. None counts all."""


class Clipped(NamedTuple):
    """Sums of clipped gradients, by parameter. `within` is the number of records not clipped."""

    sums: list[Tensor]
    within: int


class ClippedSum(Protocol):
    """A method to sum a batch's gradients, each clipped to an L2 norm."""

    def __call__(
        self, features: Records, labels: Tensor, clip_norm: float, masks: Masks = None
    ) -> Clipped:
        """Return clipped sums, contiguous, in the order of the trainable parameters and with their
        shapes.

        Args:
            features: B records, float32 [B, features] or any other `Records`; B may be 0.
            labels: [B, ...], as the loss takes them.
            masks: what counts of the gradients.

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


def norms_of(rows: Tensor) -> Tensor:
    """Return the L2 norm of each record's gradient, [B], of gradients [B, values].

    torch adds up the squares of float32 values in float32. Of 10^8 values the norm is then too
    small by 1 %, and a record would keep a gradient that is so much longer than the clip norm.
    """
    long, rest = divmod(rows.shape[1], _LONGEST_SUM)
    if not long:
        short: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return short
    start = rows[:, : long * _LONGEST_SUM].reshape(len(rows), long, _LONGEST_SUM)
    parts = [torch.linalg.vector_norm(start, dim=2).double()]
    if rest:
        parts.append(torch.linalg.vector_norm(rows[:, -rest:], dim=1, keepdim=True).double())
    norms: Tensor = torch.linalg.vector_norm(torch.cat(parts, 1), dim=1)
    return norms


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

"""Copies of a record: the mean of their gradients is the record's gradient, and is clipped as one.

A model of single records becomes one of records with K copies each, whose loss is the mean over
them, so that every method of clipping takes it as it is. Book-keeping sees B K rows in a model's
operations. Here they become B records again, each with K times as many positions: the norm then
is that of the mean gradient, with all products between copies.

Legend as in `blindsum.platform.training.clipping.parts`; K copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from blindsum.platform.training.clipping.book import Parts
from blindsum.platform.training.clipping.parts import (
    ConvolutionWeight,
    EmbeddingWeight,
    LinearWeight,
    Part,
    by_copy,
)
from blindsum.platform.training.losses import RecordLoss


class OfCopies(nn.Module):
    """A model of records with copies, [B, K, features], with outputs [B, K, ...]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of every copy."""
        outputs: Tensor = self.model(x.flatten(0, 1))
        return outputs.reshape(*x.shape[:2], *outputs.shape[1:])


class MeanOverCopies:
    """The loss of a record with copies: the mean of theirs."""

    def __init__(self, loss: RecordLoss) -> None:
        self._loss = loss

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses, [B], of outputs [B, K, ...] and labels [B, ...]."""
        copies = outputs.shape[1]
        repeated = labels.unsqueeze(1).expand(-1, copies, *labels.shape[1:]).flatten(0, 1)
        losses = self._loss(outputs.flatten(0, 1), repeated)
        return losses.view(outputs.shape[:2]).mean(1)


def as_records(parts: Parts, copies: int) -> Parts:
    """Return parts of a batch of B K rows as those of B records."""
    found: Parts = {}
    for share, calls in parts.items():
        found[share] = [(_as_records(part, copies), by_copy(d, copies)) for part, d in calls]
    return found


def _as_records(part: Part, copies: int) -> Part:
    if isinstance(part, LinearWeight):
        return LinearWeight(by_copy(part.a, copies))
    if isinstance(part, EmbeddingWeight):
        return replace(part, index=by_copy(part.index, copies))
    if isinstance(part, ConvolutionWeight):
        return replace(part, a=by_copy(part.a, copies), copies=copies)
    return _Summed(part, copies)


@dataclass(frozen=True)
class _Summed:
    """A small parameter's part: its gradients of all copies are formed, and added up."""

    part: Part
    copies: int

    def formed(self, d: Tensor, where: slice) -> Tensor:
        rows = slice(*(n * self.copies for n in where.indices(len(d))[:2]))
        found = self.part.formed(d.flatten(0, 1), rows)
        return by_copy(found, self.copies).sum(1)

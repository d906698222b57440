"""What a record costs: the loss whose gradient, record by record, is clipped."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from blindsum.platform.job.data_section import DataSection, Tasks

RecordLoss = Callable[[Tensor, Tensor], Tensor]
"""From a model's outputs [B, ...] and the labels [B, ...] to one loss for each record, [B]. A record's
loss must depend on that record's outputs and labels alone."""


def classification(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, classes] and classes int64 [B], in nats."""
    return functional.cross_entropy(outputs, labels, reduction="none")


def record_loss(contract: DataSection, own: Tasks) -> RecordLoss:
    """The loss of a job's records in a silo with those tasks of its own."""
    return classification if contract.target else MultiTask({**(contract.tasks or {}), **own})


class MultiTask:
    """The weighted sum over a record's tasks: cross-entropy of a logit (nats), or half the squared
    error of a scaled number. A label that is missing costs nothing; a number that is known to lie below
    (above) what was measured costs only what is predicted above (below) it.

    Clipping is of the whole record's gradient, however many labels it has.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._binary = torch.tensor([task.kind == "binary" for task in tasks.values()])
        self._weights = torch.tensor([task.weight for task in tasks.values()])

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """[B] of outputs [B, tasks] and labels float32 [B, 2, tasks]: values with NaN where missing,
        and -1, 0, 1 where the true value is below, at, above them."""
        values, sides = labels[:, 0].to(outputs.dtype), labels[:, 1]
        known = ~torch.isnan(values)
        y = torch.where(known, values, torch.zeros_like(values))
        crossed = functional.binary_cross_entropy_with_logits(outputs, y, reduction="none")
        apart = outputs - y
        # Right where the measurement says no more than that.
        apart = torch.where((sides != 0) & (apart * sides > 0), torch.zeros_like(apart), apart)
        losses = torch.where(self._binary, crossed, apart.square() / 2)
        weighted = torch.where(known, losses, torch.zeros_like(losses)) * self._weights
        return weighted.sum(1)

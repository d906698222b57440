"""Losses of single records. Their gradients are clipped record by record.

Weights of classes and of tasks are public constants of the job that multiply a record's loss. They
change nothing about privacy: the clip norm bounds a record's gradient whatever its loss was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from blindsum.platform.job.labels_section import Target, Tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.training.own_loss import own_loss

_LEAST = 1e-12
"""Least share of a focal loss: the slope of a power below 1 has no bound at zero."""

RecordLoss = Callable[[Tensor, Tensor], Tensor]
"""A function from a model's outputs [B, ...] and the labels [B, ...] to one loss for each record,
[B]. A record's loss must depend only on that record's outputs and labels."""


def classification(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits [B, classes] and classes int64 [B], in nats, [B]."""
    return functional.cross_entropy(outputs, labels, reduction="none")


def record_loss(job: Job, own: Tasks) -> RecordLoss:
    """Return the loss of a job's records in a silo with these private tasks.

    Raises:
        ModelError: the job's own loss cannot be used (`own_loss`).
    """
    if job.training.loss:
        return own_loss(job, job.training.loss)
    if job.data.target is None:
        return MultiTask({**(job.data.tasks or {}), **own})
    target = job.data.target
    return WeightedClasses(target) if target.class_weights or target.focal else classification


class WeightedClasses:
    """The cross-entropy of a record, multiplied by its class's weight and, for the focal loss, by
    (1 - p)^gamma, where p is the probability of its class (Lin, Goyal, Girshick, He and Dollár,
    ICCV 2017)."""

    def __init__(self, target: Target) -> None:
        self._weights, self._focal = torch.tensor(target.weights), target.focal

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses, [B], of logits [B, classes] and classes int64 [B]."""
        losses = _focused(classification(outputs, labels), self._focal)
        return losses * self._weights.to(outputs)[labels]


def _focused(crossed: Tensor, gamma: float | Tensor) -> Tensor:
    """Return the focal loss of cross-entropies in nats."""
    return crossed * (-torch.expm1(-crossed)).clamp(min=_LEAST) ** gamma


class MultiTask:
    """The weighted sum of the losses of a record's tasks.

    A binary task's loss is the cross-entropy of a logit in nats, a regression task's half the
    squared error of a scaled number. A positive's loss is multiplied by `positive_weight`, and each
    task's by `weight`; `focal` makes it a focal loss. A missing label adds no loss. If a true value
    is only known to lie below (above) the measured one, only a prediction above (below) it adds
    loss.

    The whole record's gradient is clipped, however many labels the record has.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._binary = torch.tensor([task.kind == "binary" for task in tasks.values()])
        self._weights = torch.tensor([task.weight for task in tasks.values()])
        self._of_positives = torch.tensor([task.positive_weight for task in tasks.values()])
        self._focal = torch.tensor([task.focal for task in tasks.values()])

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses, [B], of outputs [B, tasks] and labels float32 [B, 2, tasks].

        The labels are values, NaN if missing, and -1, 0 or 1 if the true value lies below, at or
        above the value.
        """
        values, sides = labels[:, 0].to(outputs.dtype), labels[:, 1]
        known = ~torch.isnan(values)
        y = torch.where(known, values, torch.zeros_like(values))
        crossed = functional.binary_cross_entropy_with_logits(outputs, y, reduction="none")
        crossed = _focused(crossed, self._focal.to(crossed)) if self._focal.any() else crossed
        crossed = torch.where(y == 1, crossed * self._of_positives.to(crossed), crossed)
        apart = outputs - y
        # A prediction on the known side of the measured value counts as right.
        apart = torch.where((sides != 0) & (apart * sides > 0), torch.zeros_like(apart), apart)
        losses = torch.where(self._binary.to(crossed.device), crossed, apart.square() / 2)
        weighted = torch.where(known, losses, torch.zeros_like(losses)) * self._weights.to(losses)
        return weighted.sum(1)

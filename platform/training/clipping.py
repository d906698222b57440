"""The choice of the cheapest method of per-record clipping for a model, tested before use."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from blindsum.platform.training.book_keeping import STABLE, BookKeeping, Clipped, no_gradient
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.torch_random import forked_random


class ClippedSum(Protocol):
    """A method to sum a batch's gradients, each clipped to an L2 norm."""

    def __call__(self, features: Tensor, labels: Tensor, clip_norm: float) -> Clipped:
        """Return clipped sums, contiguous, in the order of the trainable parameters and with their
        shapes.

        Args:
            features: float32 [B, ...]; B may be 0.
            labels: [B, ...], as the loss takes them.

        Raises:
            ModelError: a layer's input does not have one row for each record.
        """


def clipped_sum(
    model: nn.Module, features: int, loss: RecordLoss = classification, labels: Tensor | None = None
) -> ClippedSum:
    """Return the cheapest clipping method that covers the model, after a test on made-up records.

    Args:
        features: the number of values of one record.
        labels: any number of labels of the kind that the loss takes; zeros must be valid labels.
            By default they are classes.

    Raises:
        ModelError: no method computes this model's gradients record by record.
    """
    way: ClippedSum
    if BookKeeping.covers(model):
        way = BookKeeping(model, loss)
    else:
        from blindsum.platform.training.ghost import Ghost  # Opacus takes seconds to import

        way = Ghost(model, loss)
    _try(way, model, features, loss, torch.zeros(0, dtype=torch.long) if labels is None else labels)
    return way


def _try(way: ClippedSum, model: nn.Module, features: int, loss: RecordLoss, kind: Tensor) -> None:
    """Compare the method with automatic differentiation, record by record, on made-up records.

    If a model reshapes records into more rows, uses a weight outside its layer or ties it to
    another, one record could change the sum by more than the clip norm.

    Raises:
        ModelError: names the first parameter that differs.
    """
    model.train()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    with forked_random():
        for records in (3, 1, 0):
            torch.manual_seed(records)
            made_up = torch.randn(records, features)
            labels = torch.zeros(records, *kind.shape[1:], dtype=kind.dtype)
            torch.manual_seed(0)  # the same dropout both times
            losses = loss(model(made_up), labels)
            each = [
                torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
                for one in losses
            ]
            norms = [_norm(gradients) for gradients in each]
            clip = max([1e-3, *(float(n) / 2 for n in norms)])  # cuts at least the largest
            torch.manual_seed(0)
            found = way(made_up, labels, clip).sums
            for i, (name, p) in enumerate(named):
                expected = torch.zeros_like(p)
                for gradients, norm in zip(each, norms, strict=True):
                    if gradients[i] is None:
                        raise no_gradient(name)
                    expected += gradients[i] * (clip / (norm + STABLE)).clamp(max=1.0)
                if not torch.allclose(found[i], expected, rtol=1e-3, atol=1e-4 * clip):
                    raise no_gradient(name)


def _norm(gradients: tuple[Tensor | None, ...]) -> Tensor:
    flat = [g.flatten() for g in gradients if g is not None]
    return torch.cat(flat).norm() if flat else torch.zeros(())

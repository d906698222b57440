"""Clipping of gradients that are computed record by record, for models without a cheaper method.

Both ways are the definition itself: a record's gradient is that of its own loss, computed from its
own inputs alone, so nothing that a model does with a parameter can make it wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree

from blindsum.platform.training.clipping.clipped import (
    Clipped,
    Masks,
    Records,
    add_weighted,
    clip_factors,
    count,
    norms_of,
    of_no_record,
    rows,
)
from blindsum.platform.training.losses import RecordLoss, classification

MOST_BYTES = 2**26
"""Most memory of the gradients that are held at a time."""

_MOST_RECORDS = 64


class Vectorised:
    """Gradients of many records at a time, by `torch.func`.

    A module that draws randomness draws for each record anew.
    """

    def __init__(self, model: nn.Module, loss: RecordLoss = classification) -> None:
        self._model, self._loss = model, loss
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        bytes_each = 4 * sum(p.numel() for p in self._named.values())
        self._chunk = max(1, min(_MOST_RECORDS, MOST_BYTES // max(bytes_each, 1)))

    def __call__(
        self, features: Records, labels: Tensor, clip_norm: float, masks: Masks = None
    ) -> Clipped:
        parameters = list(self._named.values())
        total = of_no_record(parameters)
        gradients = vmap(
            grad(self._loss_of_one),
            in_dims=(None, 0, 0),
            randomness="different",
        )
        detached = {name: p.detach() for name, p in self._named.items()}
        for start in range(0, count(features), self._chunk):
            some = slice(start, start + self._chunk)
            with warnings.catch_warnings():  # torch's advice to its developers
                warnings.filterwarnings("ignore", message="There is a performance drop")
                found = gradients(detached, rows(features, some), labels[some])
            total = _added(total, [found[name] for name in self._named], clip_norm, masks)
        return total

    def _loss_of_one(
        self, parameters: dict[str, Tensor], features: Records, label: Tensor
    ) -> Tensor:
        alone = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), features)
        outputs = functional_call(self._model, parameters, (alone,))
        return self._loss(outputs, label.unsqueeze(0)).sum()


class OneByOne:
    """Gradients of one record after the other: slow, and possible for every model."""

    def __init__(self, model: nn.Module, loss: RecordLoss = classification) -> None:
        self._model, self._loss = model, loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(
        self, features: Records, labels: Tensor, clip_norm: float, masks: Masks = None
    ) -> Clipped:
        total = of_no_record(self._parameters)
        for i in range(count(features)):
            alone = slice(i, i + 1)
            loss = self._loss(self._model(rows(features, alone)), labels[alone]).sum()
            found = gradients_of(loss, self._parameters)
            total = _added(total, [one.unsqueeze(0) for one in found], clip_norm, masks)
        return total


def gradients_of(loss: Tensor, parameters: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
    """Return a loss's gradients, zero for parameters that it does not depend on.

    Args:
        keep: whether another loss of the same forward pass follows.
    """
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(
        loss, parameters, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return [one.to_dense() if one.is_sparse else one for one in found]


def _added(total: Clipped, gradients: Sequence[Tensor], clip_norm: float, masks: Masks) -> Clipped:
    """Add the clipped gradients of some records, [b, ...] for each parameter."""
    with torch.no_grad():
        if masks is not None:
            pairs = zip(gradients, masks, strict=True)
            gradients = [one.masked_fill(~mask, 0.0) for one, mask in pairs]
        flat = [one.reshape(len(one), -1) for one in gradients]
        squares = [norms_of(one).double().square() for one in flat]
        norms = torch.stack(squares).sum(0).sqrt()
        factors = clip_factors(norms, clip_norm)
        for one, more in zip(total.sums, gradients, strict=True):
            add_weighted(one, factors, slice(None), more)
        return Clipped(total.sums, total.within + int((norms <= clip_norm).sum()))

"""A trial of methods of clipping: their sums on made-up records, beside automatic differentiation.

Weights are moved at random first. A last layer that starts at zero, as in many adapters, gives all
layers before it gradients of zero, and a wrong method would agree with those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blindsum.platform.data.device import device_of, random_state
from blindsum.platform.training.clipping.by_record import gradients_of
from blindsum.platform.training.clipping.clipped import ClippedSum, clip_factors, norms_of
from blindsum.platform.training.clipping.mixing import MakeUp
from blindsum.platform.training.losses import RecordLoss
from blindsum.platform.training.torch_random import forked_random
from blindsum.platform.training.vector_room import BLOCK

_SIZES = (5, 2, 1, 0)
"""Records of the batches. Rows that are not the records equal the number of records in one."""

_SEED = 1


class Trial:
    """A model with moved weights in train mode, made-up records and the loss.

    Args:
        labels: labels of the kind that the loss takes, any number; zeros must be valid labels.
    """

    def __init__(self, model: nn.Module, made_up: MakeUp, loss: RecordLoss, labels: Tensor) -> None:
        self._model, self._made_up, self._loss, self._labels = model, made_up, loss, labels
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Move the weights at random as long as the block lasts."""
        kept = [p.detach().clone() for p in self._named.values()]
        self._model.train()
        with forked_random(0):
            try:
                with torch.no_grad():
                    for p in self._named.values():
                        p.add_(torch.randn_like(p), alpha=_spread(p))
                yield
            finally:
                with torch.no_grad():
                    for p, old in zip(self._named.values(), kept, strict=True):
                        p.copy_(old)

    @property
    def draws(self) -> bool:
        """Whether the model draws randomness, as dropout does."""
        features = self._made_up(2)
        torch.manual_seed(_SEED)
        device = device_of(self._model)
        before = random_state(device)
        with torch.no_grad():
            self._model(features)
        return not torch.equal(before, random_state(device))

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Set the model to evaluate as long as the block lasts."""
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()

    def run(self, way: ClippedSum) -> None:
        """Run the method on a few records. Raises whatever it raises."""
        for records in _SIZES:
            way(self._made_up(records), self._zeros(records), 1.0)

    def difference(self, way: ClippedSum) -> str | None:
        """Return the first parameter whose clipped sums are not those of automatic differentiation,
        or None if all agree."""
        return next((name for n in _SIZES if (name := self._differs(way, n)) is not None), None)

    def _differs(self, way: ClippedSum, records: int) -> str | None:
        torch.manual_seed(records)
        features = self._made_up(records)
        labels = self._zeros(records)
        parameters = list(self._named.values())
        torch.manual_seed(_SEED)  # the same dropout both times
        losses = self._loss(self._model(features), labels) if records else torch.zeros(0)
        # One record's gradients at a time: with a large model, those of all would be too many.
        lengths = [_norm(gradients_of(one, parameters, keep=True)) for one in losses]
        norms = torch.tensor(lengths, device="cpu")
        clip = max([1e-3, *(norms / 2).tolist()])  # cuts at least the longest
        expected = [torch.zeros_like(p) for p in parameters]
        factors = clip_factors(norms, clip).values.tolist()
        for one, factor in zip(losses, factors, strict=True):
            gradients = gradients_of(one, parameters, keep=True)
            for total, gradient in zip(expected, gradients, strict=True):
                if factor:  # a gradient that is not finite counts as none
                    total.add_(gradient, alpha=factor)
        del losses
        torch.manual_seed(_SEED)
        found = way(features, labels, clip)
        for name, one, other in zip(self._named, found.sums, expected, strict=True):
            if not _close(one, other, rtol=1e-3, atol=1e-4 * clip):
                return name
        return None

    def _zeros(self, records: int) -> Tensor:
        return torch.zeros(records, *self._labels.shape[1:], dtype=self._labels.dtype)


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(norms_of(one.reshape(1, -1))) ** 2 for one in gradients))


def _close(one: Tensor, other: Tensor, *, rtol: float, atol: float) -> bool:
    """As torch.allclose, which needs several times the memory of what it compares."""
    a, b = one.reshape(-1), other.reshape(-1)
    pairs = zip(torch.split(a, BLOCK), torch.split(b, BLOCK), strict=True)
    return all(torch.allclose(x, y, rtol=rtol, atol=atol) for x, y in pairs)


def _spread(p: Tensor) -> float:
    """Return how far a parameter is moved: a third of its own spread, and at least so far that
    signals neither vanish nor explode."""
    inputs = p[0].numel() if p.dim() > 1 else 16
    own = float(p.detach().std()) if p.numel() > 1 else 0.0
    return max(own / 3, 0.3 / math.sqrt(inputs))

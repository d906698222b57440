"""Whether a model mixes the records of a batch.

Then a record changes the gradients of others, and clipping its own would bound nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from blindsum.platform.training.clipping.clipped import Records
from blindsum.platform.training.torch_random import forked_random

MakeUp: TypeAlias = Callable[[int], Records]
"""A function from a number of records to that many made-up ones, which depend on no data."""

MEND = "Normalise over features, not over the batch (LayerNorm, GroupNorm)."


def dense(features: int, copies: int = 1) -> MakeUp:
    """Return a function that makes up records of that many numbers, with that many copies each."""
    each = (features,) if copies == 1 else (copies, features)
    return lambda records: torch.randn(records, *each)


def mixes(model: nn.Module, made_up: MakeUp) -> bool:
    """Return whether a record's outputs change with the other records of its batch.

    The model's weights should be random: a last layer that starts at zero hides the others.
    """
    with forked_random(0), torch.no_grad():
        batch, others = made_up(4), made_up(4)
        for position in (0, 2):
            around = pytree.tree_map(lambda a, b: _with(b, a, position), batch, others)  # noqa: B023
            found = []
            for features in (batch, around):
                torch.manual_seed(1)  # the same dropout both times
                found.append([one[position] for one in pytree.tree_leaves(model(features))])
            for a, b in zip(*found, strict=True):
                if not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                    return True
    return False


def _with(others: Tensor, batch: Tensor, position: int) -> Tensor:
    """Return other records around the one at that position."""
    found = others.clone()
    found[position] = batch[position]
    return found

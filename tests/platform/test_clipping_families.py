"""Clipped sums of every family of models, beside automatic differentiation of one record alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from blindsum.platform.training.clipping.choice import clipped_sum
from tests.platform.clipped_models import CLASSES, FAMILIES, TOKENS

SIZES = (1, TOKENS, 13)
"""Records of the batches. One equals the number of positions, which then look like records."""


def record_by_record(
    model: nn.Module, features: Any, labels: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return every record's gradients, [B, ...] for each parameter, and their norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    each = []
    for i in range(len(labels)):
        alone = pytree.tree_map(lambda leaf: leaf[i : i + 1], features)  # noqa: B023
        loss = functional.cross_entropy(model(alone), labels[i : i + 1])
        each.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    gradients = [
        torch.stack([torch.zeros_like(p) if g is None else g for g in found])
        for p, found in zip(parameters, zip(*each, strict=True), strict=True)
    ]
    squares = [g.reshape(len(g), -1).double().square().sum(1) for g in gradients]
    return gradients, torch.stack(squares).sum(0).sqrt()


def clipped(gradients: list[Tensor], norms: Tensor, clip: float) -> list[Tensor]:
    factors = (clip / norms).clamp(max=1.0)
    return [torch.einsum("b,b...->...", factors, g.double()) for g in gradients]


def shaken(model: nn.Module) -> None:
    """Move every weight, because some layers start at zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)


@pytest.mark.parametrize("name", FAMILIES)
def test_clipped_sums_are_those_of_one_record_after_the_other(name: str) -> None:
    torch.manual_seed(3)
    make, records, method = FAMILIES[name]
    model = make()
    way = clipped_sum(model, records)
    assert way.method == method, way.says
    shaken(model)
    for size in SIZES:
        features, labels = records(size), torch.randint(0, CLASSES, (size,))
        gradients, norms = record_by_record(model, features, labels)
        for clip in (float(norms.median()), 1e6):  # half of the records clipped, and none
            # `way.way`: an exception in it must not be made good by the slow way.
            found = way.way(features, labels, clip)
            for mine, expected in zip(found.sums, clipped(gradients, norms, clip), strict=True):
                torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5)
            least, most = ((norms <= clip * (1 + by)).sum() for by in (-1e-3, 1e-3))
            assert least <= found.within <= most


@pytest.mark.parametrize("name", FAMILIES)
def test_the_choice_leaves_the_model_as_it_was(name: str) -> None:
    make, records, _ = FAMILIES[name]
    model = make()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    drawn = torch.get_rng_state()
    clipped_sum(model, records)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_no_record_of_any_family_adds_more_than_the_clip_norm(name: str) -> None:
    make, records, _ = FAMILIES[name]
    model = make()
    way = clipped_sum(model, records)
    shaken(model)
    features, labels = records(6), torch.randint(0, CLASSES, (6,))
    for i in range(6):
        alone = pytree.tree_map(lambda leaf: leaf[i : i + 1], features)  # noqa: B023
        sums = way(alone, labels[i : i + 1], 0.01).sums
        assert float(torch.cat([s.flatten() for s in sums]).norm()) <= 0.01 * (1 + 1e-5)

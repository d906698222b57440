"""Clipped sums, compared with Opacus's per-record gradients; records that may not slip through."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from scipy import stats
from torch import nn
from torch.nn import functional

from blindsum.platform.privacy.gaussian_noise import add_gaussian
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.clipping.by_record import OneByOne, Vectorised
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.clipping.clipped import norms_of

FEATURES, CLASSES = 48, 3


class Reshaped(nn.Module):
    """A stack of layers on records reshaped to [B, *shape]."""

    def __init__(self, shape: tuple[int, ...], *layers: nn.Module) -> None:
        super().__init__()
        self.shape, self.layers = shape, nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.reshape(len(x), *self.shape)).flatten(1)


class Shared(nn.Module):
    """One layer called twice, with inputs of different numbers of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.tanh(self.shared(x.view(len(x), 6, 8)))
        return self.last(torch.tanh(self.shared(tokens[:, :4])).mean(1))


def frozen_first() -> nn.Module:
    model = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))
    model[0].weight.requires_grad_(False)
    return model


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(inplace=True), nn.Linear(9, 3)),
    "no bias": lambda: nn.Linear(FEATURES, CLASSES, bias=False),
    "frozen weight": frozen_first,
    "three dimensions": lambda: Reshaped(
        (2, 24), nn.Linear(24, 30), nn.Tanh(), nn.Flatten(), nn.Linear(60, 3)
    ),
    "four dimensions": lambda: Reshaped(
        (2, 4, 6), nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(40, 3)
    ),
    "long": lambda: Reshaped((24, 2), nn.Linear(2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)),
    "conv 1d": lambda: Reshaped(
        (3, 16),
        nn.Conv1d(3, 5, 4, stride=2, padding=3, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(40, CLASSES),
    ),
    "conv 2d": lambda: Reshaped(
        (3, 4, 4),
        nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=(1, 0)),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 40, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(120, CLASSES),
    ),
    "shared": Shared,
    "dropout": lambda: nn.Sequential(nn.Linear(FEATURES, 20), nn.Dropout(0.5), nn.Linear(20, 3)),
    "layer norm": lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
    "group norm": lambda: Reshaped(
        (3, 4, 4), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, CLASSES)
    ),
    "grouped conv": lambda: Reshaped(
        (4, 12), nn.Conv1d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(40, CLASSES)
    ),
    "same padding": lambda: Reshaped(
        (3, 16), nn.Conv1d(3, 2, 3, padding="same"), nn.Flatten(), nn.Linear(32, CLASSES)
    ),
}


def batch(records: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(records)
    features = torch.randn(records, FEATURES, generator=generator) * 2
    return features, torch.randint(0, CLASSES, (records,), generator=generator)


def opacus_sums(
    model: nn.Module, features: torch.Tensor, labels: torch.Tensor, clip: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return Opacus's per-record gradients, clipped and summed in double precision; and norms."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # Opacus's hooks cannot
    hooked = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    torch.manual_seed(5)
    functional.cross_entropy(hooked(features), labels, reduction="sum").backward()
    samples = [p.grad_sample.double() for p in hooked.parameters() if p.requires_grad]
    norms = torch.stack([s.flatten(1).norm(dim=1) for s in samples]).norm(dim=0)
    factors = (clip / norms).clamp(max=1.0)
    return [torch.einsum("b,b...->...", factors, s) for s in samples], norms


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("records", [1, 37])
def test_clipped_sums_are_those_of_opacus(name: str, records: int) -> None:
    torch.manual_seed(1)
    model = MODELS[name]()
    bare = copy.deepcopy(model)  # Opacus hooks a model only once
    way = clipped_sum(model, FEATURES)
    assert way.method == "book-keeping", way.says
    features, labels = batch(records)
    _, norms = opacus_sums(bare, features, labels, 1.0)
    for clip in (float(norms.median()), 1e6):  # half of the records clipped, and none
        expected, _ = opacus_sums(bare, features, labels, clip)
        torch.manual_seed(5)
        found, within = way.way(features, labels, clip)
        least, most = ((norms <= clip * (1 + by)).sum() for by in (-1e-4, 1e-4))
        assert least <= within <= most
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * min(clip, 1.0))


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_sample_sums_to_zero_and_leaves_nothing_behind(name: str) -> None:
    model = MODELS[name]()
    way = clipped_sum(model, FEATURES)
    features, labels = batch(11)
    torch.manual_seed(5)
    before = way(features, labels, 0.5).sums
    empty = way(features[:0], labels[:0], 0.5).sums
    assert all(not e.any() and e.shape == b.shape for e, b in zip(empty, before, strict=True))
    torch.manual_seed(5)
    for a, b in zip(way(features, labels, 0.5).sums, before, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["mlp", "three dimensions", "long", "conv 2d", "layer norm"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_record_that_overflows_adds_nothing(name: str, value: float) -> None:
    """Otherwise one record could turn the whole sum into NaN, visible to everyone."""
    torch.manual_seed(2)
    model = MODELS[name]()
    way = clipped_sum(model, FEATURES)
    features, labels = batch(9)
    expected = way(features[1:], labels[1:], 0.5).sums
    features[0] = value
    for a, b in zip(way(features, labels, 0.5).sums, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["shared", "conv 2d", "layer norm"])
def test_no_record_adds_more_than_the_clip_norm(name: str) -> None:
    model = MODELS[name]()
    way = clipped_sum(model, FEATURES)
    features, labels = batch(20)
    for i in range(20):
        for size in (1, 50, 1e15, 1e30):
            one = way(features[i : i + 1] * size, labels[i : i + 1], 0.3).sums
            assert float(torch.cat([g.flatten() for g in one]).norm()) <= 0.3 * (1 + 1e-5)


class Contrast(nn.Module):
    """The difference of two positions through one layer: their gradients nearly cancel."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(16, 8), nn.Linear(8, 2)
        self.norm = nn.LayerNorm(8) if normed else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.each(x.view(-1, 2, 16))
        return self.last(self.norm(torch.tanh(h[:, 0] - h[:, 1])))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
def test_a_record_whose_positions_cancel_is_clipped_too(normed: bool, scale: float) -> None:
    """In float32 its norm was lost to rounding, and it added up to 86 times the clip norm."""
    torch.manual_seed(0)
    way = clipped_sum(Contrast(normed), 32)
    for label in range(200):
        one = torch.randn(1, 16) * scale
        record = torch.cat([one, one + torch.randn(1, 16) * scale * 2e-4], 1)
        sums = way(record, torch.tensor([label % 2]), 1.0).sums
        assert float(torch.cat([s.flatten() for s in sums]).norm()) <= 1.0 + 1e-5


def test_drawn_normals_are_normal() -> None:
    values = torch.zeros(200_003)
    add_gaussian(values, 3.0, cryptographic_generator())
    drawn = values.numpy() / 3
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    assert abs(drawn.mean()) < 5 / np.sqrt(drawn.size)
    assert stats.kurtosis(drawn) == pytest.approx(0, abs=0.06)
    assert np.abs(drawn).max() > 3.9
    assert len(np.unique(drawn)) > 0.98 * drawn.size
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.012


def test_the_norm_of_a_long_gradient_is_right() -> None:
    """torch adds the squares up in float32: of so many, records kept too long gradients."""
    values = torch.randn(2, 2**23 + 7)
    exact = values.double().norm(dim=1)
    torch.testing.assert_close(norms_of(values).double(), exact, rtol=2e-6, atol=0)
    assert (values.norm(dim=1).double() / exact - 1).abs().max() > 1e-4
    model = nn.Linear(2**23 - 1, 1)
    for way in (OneByOne(model, _square), Vectorised(model, _square)):
        found = way(torch.randn(1, 2**23 - 1), torch.zeros(1, 1), 1e-3)
        norm = math.sqrt(sum(float(one.double().norm()) ** 2 for one in found.sums))
        assert norm == pytest.approx(1e-3, rel=3e-6) and not found.within


def _square(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs - labels - 1).square().sum(1)

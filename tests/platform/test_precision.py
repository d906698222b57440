"""Layers in bfloat16: no record adds more than the clip norm, and sums stay float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Cnn, Mlp
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters
from tests.plans import plan_by_hand
from tests.platform.test_augmentation import Attentive, Odd, Recurrent, large_pictures
from tests.platform.test_clipping import CLASSES, FEATURES, MODELS, Contrast, batch

ALL = {
    **MODELS,
    "attentive": Attentive,
    "recurrent": Recurrent,
    "large": large_pictures,
    "odd": Odd,
}


def length(sums: list[torch.Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in sums]).double().norm())


@pytest.mark.parametrize("name", ALL)
def test_no_record_adds_more_than_the_clip_norm(name: str) -> None:
    """Measured in float64, on the very sums that noise is added to."""
    torch.manual_seed(1)
    way = clipped_sum(ALL[name](), FEATURES, bfloat16=True)
    features, labels = batch(12)
    for clip in (0.3, 1e-3):
        for i in range(len(labels)):
            for size in (1, 50, 1e15):
                one = features[i : i + 1] * size, labels[i : i + 1], clip
                assert length(way.way(*one).sums) <= clip * (1 + 1e-5)
                assert length(way.one_by_one(*one).sums) <= clip * (1 + 1e-5)
        together = way.way(features[:1].expand(12, -1), labels[:1].expand(12), clip).sums
        assert name == "dropout" or length(together) <= 12 * clip * (1 + 1e-5)
        assert all(one.dtype == torch.float32 for one in together)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_record_whose_positions_cancel_is_clipped_too(scale: float) -> None:
    """In bfloat16 sums of nearly opposite terms lose everything to rounding."""
    torch.manual_seed(0)
    way = clipped_sum(Contrast(normed=True), 32, bfloat16=True)
    for label in range(60):
        one = torch.randn(1, 16) * scale
        record = torch.cat([one, one + torch.randn(1, 16) * scale * 0.02], 1)
        assert length(way.way(record, torch.tensor([label % 2]), 1.0).sums) <= 1.0 + 1e-5


@pytest.mark.parametrize("name", ["mlp", "conv 2d", "group norm", "attentive", "recurrent", "odd"])
def test_sums_are_those_of_float32_up_to_bfloat16s_precision(name: str) -> None:
    torch.manual_seed(1)
    model = ALL[name]()
    features, labels = batch(24)
    features /= 2
    whole = clipped_sum(model, FEATURES)
    lower = clipped_sum(model, FEATURES, bfloat16=True)
    assert lower.method == whole.method
    expected, found = (
        torch.cat([g.flatten() for g in one(features, labels, 0.5).sums]) for one in (whole, lower)
    )
    apart = float((found - expected).norm() / expected.norm())
    assert 1e-5 < apart < 0.05


def in_bfloat16() -> TrainingSection:
    return TrainingSection(
        rounds=1,
        local_steps=1,
        sampling_rate=1.0,
        expected_batch_size=20.0,
        learning_rate=0.5,
        precision="bfloat16",
    )


def test_layers_compute_in_bfloat16_and_weights_stay_float32() -> None:
    seen = []
    net = build_model(Mlp(kind="mlp"), 4, 3, seed=0, private=True)
    net[0].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    random = np.random.default_rng(0)
    data = Fold(random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 3, 20))
    training = in_bfloat16()
    start = get_parameters(net)
    quiet = replace(plan_by_hand(), noise_multiplier=0.0, clip_norm=1e6)
    updates = []
    for plan in (None, quiet):
        trainer = LocalTrainer(net, data, training, plan, seeded_generator(0))
        seen.clear()
        updates.append(trainer.train(start).values)
        assert set(seen) == {torch.bfloat16}
        assert {p.dtype for p in net.parameters()} == {torch.float32}
    np.testing.assert_allclose(updates[0], updates[1], atol=0.02 * np.abs(updates[0]).max())


class Mixing(nn.Module):
    """It writes what a layer returns into a tensor of float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(x), CLASSES)
        return found.index_put((torch.arange(len(x)),), self.layer(x))


def test_a_model_that_cannot_is_refused_with_a_reason() -> None:
    assert clipped_sum(Mixing(), FEATURES).method == "book-keeping"
    with pytest.raises(ModelError, match=r"training\.precision bfloat16: RuntimeError") as raised:
        clipped_sum(Mixing(), FEATURES, bfloat16=True)
    assert "Leave training.precision out" in str(raised.value)
    data = Fold(np.zeros((5, FEATURES), np.float32), np.zeros(5, np.int64))
    with pytest.raises(ModelError, match="bfloat16"):
        LocalTrainer(Mixing(), data, in_bfloat16(), None, seeded_generator(0))


def test_losses_are_float32() -> None:
    """A cross-entropy of 8 bits could not tell 0.99 from 1."""
    seen = []

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(outputs.dtype)
        return functional.cross_entropy(outputs, labels, reduction="none")

    net = build_model(Cnn(kind="cnn", channels=[4]), (1, 6, 8), 3, seed=0, private=True)
    way = clipped_sum(net, FEATURES, loss, bfloat16=True)
    seen.clear()
    way(*batch(5), 1.0)
    assert set(seen) == {torch.float32}

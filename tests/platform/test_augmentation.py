"""Augmentation: random changes of pictures, and copies that are clipped as one record."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.job.images_section import Augment, Images
from blindsum.platform.job.model_section import Cnn
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.augmentation import Augmentation, augmentation_of
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters
from tests.plans import plan_by_hand
from tests.platform.test_clipping import CLASSES, FEATURES, MODELS, Reshaped

COPIES = 3
SHAPE = (1, 6, 5)
BOTH = Augment(multiplicity=COPIES, flip="horizontal", shift=2)


class Attentive(nn.Module):
    """Learned positions and torch's attention, whose tensors have the tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(6, 8))
        self.looks, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.view(len(x), 6, 8) + self.positions
        return self.last(self.looks(h, h, h)[0].mean(1))


class Recurrent(nn.Module):
    """A layer that is used at every step of time."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.last = nn.GRU(8, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.reads(x.view(len(x), 6, 8))[0][:, -1])


class Odd(nn.Module):
    """A weight that is computed from others, which book-keeping does not cover."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, CLASSES) / 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.tanh(self.weight)


def large_pictures() -> nn.Module:
    """Convolutions over more positions than are formed as one product."""
    return nn.Sequential(
        nn.Linear(FEATURES, 24 * 24),
        Reshaped((1, 24, 24), nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(8)),
        nn.Linear(18, CLASSES),
    )


ALL = {**MODELS, "attentive": Attentive, "recurrent": Recurrent, "large": large_pictures}
del ALL["dropout"]  # the oracle would drop others


def batch(records: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(records)
    features = torch.randn(records, COPIES, FEATURES, generator=generator) * 2
    return features, torch.randint(0, CLASSES, (records,), generator=generator)


def by_autograd(
    model: nn.Module, features: torch.Tensor, labels: torch.Tensor
) -> list[list[torch.Tensor]]:
    """Return each record's gradient, the mean over its copies, in double precision."""
    model = copy.deepcopy(model).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for copies, label in zip(features.double(), labels, strict=True):
        losses = [functional.cross_entropy(model(one[None]), label[None]) for one in copies]
        mean = torch.stack(losses).mean()
        found.append(list(torch.autograd.grad(mean, parameters, materialize_grads=True)))
    return found


def clipped(
    gradients: list[list[torch.Tensor]], clip: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    norms = torch.stack([torch.cat([g.flatten() for g in one]).norm() for one in gradients])
    factors = (clip / norms).clamp(max=1.0)
    sums = [
        torch.stack([f * g for f, g in zip(factors, of_p, strict=True)]).sum(0)
        for of_p in zip(*gradients, strict=True)
    ]
    return sums, norms


@pytest.mark.parametrize("name", ALL)
def test_the_mean_over_copies_is_clipped_as_one_record(name: str) -> None:
    torch.manual_seed(1)
    model = ALL[name]()
    way = clipped_sum(model, FEATURES, copies=COPIES)
    assert way.method == "book-keeping", way.says
    for records in (1, 11):
        features, labels = batch(records)
        gradients = by_autograd(model, features, labels)
        _, norms = clipped(gradients, 1.0)
        for clip in (float(norms.median()), 1e6):
            expected, _ = clipped(gradients, clip)
            found, within = way.way(features, labels, clip)
            least, most = ((norms <= clip * (1 + by)).sum() for by in (-1e-4, 1e-4))
            assert least <= within <= most
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * min(clip, 1.0))


def test_models_without_book_keeping_have_copies_too() -> None:
    torch.manual_seed(1)
    model = Odd()
    way = clipped_sum(model, FEATURES, copies=COPIES)
    assert way.method == "vectorised"
    features, labels = batch(7)
    expected, _ = clipped(by_autograd(model, features, labels), 0.5)
    for one in (way.way, way.one_by_one):
        for a, b in zip(one(features, labels, 0.5).sums, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "conv 2d", "layer norm", "large"])
def test_a_record_of_many_copies_adds_no_more_than_the_clip_norm(name: str) -> None:
    """Copies that were clipped one by one would add up to K times as much."""
    torch.manual_seed(3)
    way = clipped_sum(ALL[name](), FEATURES, copies=COPIES)
    features, labels = batch(9)
    features[:, 1:] = features[:, :1]  # alike, so that their gradients add up in full
    for i in range(9):
        for size in (1, 50, 1e15):
            one = way(features[i : i + 1] * size, labels[i : i + 1], 0.3).sums
            length = float(torch.cat([g.flatten() for g in one]).double().norm())
            assert length <= 0.3 * (1 + 1e-5)


# -- in training ----------------------------------------------------------------------------------


def pictures(count: int) -> Fold:
    random = np.random.default_rng(0)
    return Fold(random.normal(size=(count, 30)).astype(np.float32), random.integers(0, 2, count))


def trainer(
    augment: Augment | None, random: np.random.Generator, noise: bool, **changes: Any
) -> tuple[LocalTrainer, np.ndarray]:
    training = {
        "rounds": 1,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": 20.0,
        "learning_rate": 1.0,
    }
    section = TrainingSection.model_validate(training | changes)
    model = build_model(Cnn(kind="cnn", channels=[4]), SHAPE, 2, seed=0, private=True)
    plan = plan_by_hand(noise_multiplier=0.0, clip_norm=0.1) if noise else None
    change = Augmentation(augment, SHAPE) if augment else None
    made = LocalTrainer(model, pictures(20), section, plan, random, augmentation=change)
    return made, get_parameters(model)


def test_one_augmented_record_moves_the_update_by_at_most_the_clip_norm() -> None:
    made, start = trainer(BOTH, cryptographic_generator(), noise=True)
    moved = made.train(start).values * 20
    assert np.linalg.norm(moved) <= 20 * 0.1 * (1 + 1e-5)
    alone, start = trainer(BOTH, cryptographic_generator(), noise=True)
    alone._data = Fold(9 * pictures(1).features, np.array([1]))
    assert np.linalg.norm(alone.train(start).values * 20) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("private", [True, False])
def test_changes_are_drawn_from_the_trainers_own_generator(private: bool) -> None:
    """Under differential privacy that is the cryptographic one; elsewhere runs are seeded."""
    found = []
    for seed in (1, 1, 2):
        made, start = trainer(BOTH, seeded_generator(seed), private)
        found.append(made.train(start).values)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_without_privacy_the_loss_is_the_mean_over_copies_too() -> None:
    made, start = trainer(BOTH, seeded_generator(1), noise=False)
    loose, _ = trainer(BOTH, seeded_generator(1), noise=True)
    assert loose._plan
    loose._plan = replace(loose._plan, clip_norm=1e6)
    np.testing.assert_allclose(
        made.train(start).values, loose.train(start).values, rtol=1e-4, atol=1e-6
    )


def test_one_copy_is_changed_as_well() -> None:
    one = Augment(multiplicity=1, flip="horizontal")
    made, start = trainer(one, seeded_generator(1), noise=True)
    plain, _ = trainer(None, seeded_generator(1), noise=True)
    assert not np.allclose(made.train(start).values, plain.train(start).values)


def test_a_batch_has_fewer_records_the_more_copies_they_have() -> None:
    plain, _ = trainer(None, seeded_generator(1), noise=True)
    many, _ = trainer(BOTH, seeded_generator(1), noise=True)
    assert many._chunk == pytest.approx(plain._chunk / COPIES, abs=1)


# -- the changes ----------------------------------------------------------------------------------


def test_pictures_are_mirrored_and_moved_within_their_own_pixels() -> None:
    channels, height, width = shape = (2, 7, 6)
    one = torch.arange(84.0).view(1, -1)
    change = Augmentation(Augment(multiplicity=64, flip="horizontal", shift=2), shape)
    found = change(one, np.random.default_rng(0)).view(64, *shape)
    picture = one.view(shape).numpy()
    padded = np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    possible = set()
    for y in range(5):
        for x in range(5):
            cut = padded[:, y : y + height, x : x + width]
            possible |= {cut.tobytes(), cut[:, :, ::-1].tobytes()}
    seen = {copied.numpy().tobytes() for copied in found}
    assert seen <= possible
    assert len(seen) > 25, "of 50 that are possible"
    assert channels == 2


def test_without_shift_half_of_the_copies_are_the_picture_itself() -> None:
    one = torch.arange(30.0).view(1, -1)
    change = Augmentation(Augment(multiplicity=64, flip="horizontal"), SHAPE)
    same = (change(one, np.random.default_rng(0))[0] == one).all(1)
    assert 16 <= int(same.sum()) <= 48
    mirrored = change(one, np.random.default_rng(0))[0][~same][0].view(6, 5)
    torch.testing.assert_close(mirrored, one.view(6, 5).flip(1))


def test_an_empty_sample_has_no_copies() -> None:
    made = Augmentation(BOTH, SHAPE)(torch.zeros(0, 30), np.random.default_rng(0))
    assert made.shape == (0, COPIES, 30)


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"multiplicity": 4}, "copies would all be alike"),
        ({"multiplicity": 4, "flip": "none", "shift": 0}, "copies would all be alike"),
        ({"shift": 8}, "below the picture's"),
        ({"multiplicity": 0, "shift": 1}, "multiplicity"),
        ({"multiplicity": 2, "shift": 1, "rotate": 9}, "rotate"),
    ],
)
def test_augmentation_without_an_effect_is_refused(augment: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Images.model_validate({"kind": "images", "height": 8, "width": 8, "augment": augment})


def test_a_job_without_augmentation_keeps_its_digest_and_its_records() -> None:
    plain = Images(kind="images", height=8, width=8)
    assert "augment" not in plain.model_dump_json()
    assert augmentation_of(plain) is None
    found = augmentation_of(plain.model_copy(update={"augment": BOTH}))
    assert found is not None and found.copies == COPIES and found.shape == (3, 8, 8)

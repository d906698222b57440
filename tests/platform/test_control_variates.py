"""SCAFFOLD's control variates: against the paper's algorithm, under noise, and within reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.privacy.reach import honest_reach
from blindsum.platform.training.control_variates import ControlVariates
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

NAMES = ("alder", "birch", "cedar")
PLAIN = {
    "rounds": 6,
    "local_steps": 4,
    "sampling_rate": 1.0,
    "expected_batch_size": 30.0,
    "learning_rate": 0.3,
    "control_variates": True,
}


def section(**changes: Any) -> TrainingSection:
    return TrainingSection.model_validate(PLAIN | changes)


def skewed() -> list[Fold]:
    """Three silos, each of which has mostly one of three classes."""
    random = np.random.default_rng(0)
    folds = []
    for i in range(3):
        labels = np.where(random.random(30) < 0.8, i, random.integers(0, 3, 30))
        features = random.normal(size=(30, 4)) + np.eye(3, 4)[labels] * 2
        folds.append(Fold(features.astype(np.float32), labels.astype(np.int64)))
    return folds


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class Federation:
    """Rounds with control variates, by the product's own parts."""

    def __init__(self, training: TrainingSection, own: PrivacyPlan | None = None) -> None:
        self.training, self.model = training, model()
        self.trainers = [
            LocalTrainer(self.model, fold, training, own, seeded_generator(i))
            for i, fold in enumerate(skewed())
        ]
        self.vector = get_parameters(self.model)
        self.variates = [ControlVariates.none(self.vector.size, NAMES) for _ in NAMES]

    def round(self, number: int) -> np.ndarray:
        sent = [
            trainer.train(self.vector, 1.0, number, None, one.correction).values
            for trainer, one in zip(self.trainers, self.variates, strict=True)
        ]
        mean = np.mean(sent, axis=0, dtype=np.float64)
        length = self.training.local_steps * self.training.rate(number)
        self.variates = [
            one.after(values, mean, length) for one, values in zip(self.variates, sent, strict=True)
        ]
        self.vector = (self.vector + mean).astype(np.float32)
        return mean


def scaffold(training: TrainingSection) -> list[np.ndarray]:
    """Algorithm 1 of the paper with option II, all clients and a global step of 1: each model.

    Here the server's variate is the mean of what clients send of theirs.
    """
    net, folds = model().double(), skewed()
    x = torch.cat([p.detach().flatten() for p in net.parameters()])
    own = [torch.zeros_like(x) for _ in folds]
    common, models = torch.zeros_like(x), []
    for number in range(1, training.rounds + 1):
        rate, moved, changed = training.rate(number), [], []
        for i, fold in enumerate(folds):
            y = x.clone()
            for _ in range(training.local_steps):
                torch.nn.utils.vector_to_parameters(y, net.parameters())
                output = net(torch.from_numpy(fold.features).double())
                loss = functional.cross_entropy(output, torch.from_numpy(fold.labels))
                found = torch.autograd.grad(loss, list(net.parameters()))
                y = y - rate * (torch.cat([g.flatten() for g in found]) - own[i] + common)
            new = own[i] - common + (x - y) / (training.local_steps * rate)
            moved.append(y - x)
            changed.append(new - own[i])
            own[i] = new
        x = x + torch.stack(moved).mean(0)
        common = common + torch.stack(changed).mean(0)
        models.append(x.numpy())
    return models


@pytest.mark.parametrize("schedule", [{"kind": "constant"}, {"kind": "linear", "floor": 0.2}])
def test_rounds_are_those_of_the_paper_although_no_variate_travels(schedule: Any) -> None:
    training = section(schedule=schedule)
    made = Federation(training)
    for number, expected in enumerate(scaffold(training), start=1):
        made.round(number)
        np.testing.assert_allclose(made.vector, expected, atol=2e-5)
        mean = np.mean([one.own for one in made.variates], axis=0)
        np.testing.assert_allclose(mean, made.variates[0].common, atol=1e-6)


def test_silos_that_differ_go_on_where_plain_averaging_stands_still() -> None:
    """At the optimum of all records the mean step is zero with variates, and without it is not."""
    training = section(local_steps=20, learning_rate=0.5, rounds=400)
    made, plain = Federation(training), Federation(training)
    for number in range(1, 401):
        made.round(number)
        start = plain.vector
        plain.vector = start + np.mean([t.train(start).values for t in plain.trainers], axis=0)
    folds = skewed()
    every = Fold(
        np.concatenate([f.features for f in folds]), np.concatenate([f.labels for f in folds])
    )
    slopes = []
    for vector in (made.vector, plain.vector):
        set_parameters(made.model, vector)
        output = made.model(torch.from_numpy(every.features))
        loss = functional.cross_entropy(output, torch.from_numpy(every.labels))
        found = torch.autograd.grad(loss, list(made.model.parameters()))
        slopes.append(float(torch.cat([g.flatten() for g in found]).norm()))
    assert slopes[0] < 1e-4 and slopes[1] > 0.01


def test_variates_follow_from_what_was_sent_alone() -> None:
    """Post-processing under local noise: neither a record nor a gradient is an argument."""
    random = np.random.default_rng(0)
    before = ControlVariates.none(5, NAMES)
    sent, mean = random.normal(size=5).astype(np.float32), random.normal(size=5)
    found = before.after(sent, mean, 2.0).after(sent, mean, 2.0)
    np.testing.assert_allclose(found.own, -sent / 2 + mean / 2 - sent / 2, rtol=1e-6)
    np.testing.assert_allclose(found.common, -mean / 2)
    assert "own" not in repr(found)


def test_the_correction_is_added_after_clipping_and_noise() -> None:
    """Before clipping, a long correction would use the clip norm up and change what noise hides."""
    quiet = plan_by_hand(noise_multiplier=0.0, clip_norm=0.1)
    made = Federation(section(local_steps=2), quiet)
    long = np.full(made.vector.size, 50.0, np.float32)
    with_it, without = (
        made.trainers[0].train(made.vector, 1.0, 1, None, one).values for one in (long, None)
    )
    moved = with_it - 2 * 0.3 * long
    # Every record's gradient is still cut to 0.1, so that two steps move by at most that.
    assert np.linalg.norm(moved) <= 2 * 0.3 * 0.1 * 1.001
    assert np.linalg.norm(without) <= 2 * 0.3 * 0.1 * 1.001


def test_honest_means_stay_within_the_reach_of_local_noise(make_job: MakeJob) -> None:
    job = make_job("training.local_steps=4", "training.control_variates=true").job
    own = plan(job, "alder")
    assert own is not None
    made = Federation(job.training, own)
    for number in (1, 2, 3, 4):
        length = float(np.linalg.norm(made.round(number)))
        assert 0 < length <= honest_reach(job, own, 3, made.vector.size, 1e-6, 1.0, number)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"local_steps": 1}, "privacy.noise shared"),
        ({"optimizer": "adam"}, "optimizer sgd"),
        ({"optimizer": "momentum"}, "optimizer sgd"),
        ({"proximal": 0.5}, "without proximal"),
    ],
)
def test_what_variates_do_not_go_with_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        section(**changes)


def test_jobs_without_them_keep_their_digest(make_job: MakeJob) -> None:
    assert "control_variates" not in make_job().job.model_dump_json()

"""A generator's records are scored against real ones, and no more is said than was seen."""

from dataclasses import replace

import numpy as np
import pytest

from blindsum.pipelines.audit.attacks import generator
from blindsum.pipelines.audit.attacks.closeness import (
    Closeness,
    class_mean,
    closeness,
    frechet,
    precision,
    summary,
)
from blindsum.pipelines.audit.attacks.generator import attack
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob


def normal(count: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (count, 5))


def test_scores_tell_real_records_from_others() -> None:
    real, others = normal(300, seed=1), normal(300, seed=2)
    assert precision(others, real) > 0.85 and precision(normal(300, 6.0), real) < 0.05
    assert closeness(real, real, others, normal(300, seed=5)).nearer > 0.99
    assert closeness(others, real, others, normal(300, seed=5)).nearer < 0.01
    assert closeness(normal(300, seed=6), real, others, real).nearer == pytest.approx(0.5, abs=0.1)
    nonsense = closeness(np.full((3, 5), np.nan), real, others, real)
    assert nonsense == Closeness(np.inf, 0.0, 0.5)


def test_the_frechet_distance_is_that_of_gaussians() -> None:
    """|m - n|^2 + sum (sqrt a - sqrt b)^2, of diagonal covariances."""
    spread = np.array([1.0, 2.0, 3.0, 1.0, 0.5])
    many, far = normal(100_000, seed=3), normal(100_000, 1.0, seed=4) * spread
    expected = (spread**2).sum() + ((spread - 1) ** 2).sum()
    assert frechet(far, many) == pytest.approx(expected, rel=0.03)
    alike = np.repeat(many.mean(0)[None], 100, axis=0)
    assert frechet(alike, many) == pytest.approx(5.0, rel=0.02), "no spread is a distance"


def test_a_pair_of_runs_takes_off_what_sets_the_two_sets_apart_by_chance() -> None:
    """A generator that knows the class alone is nearer to one of the sets, whoever trained."""
    prior = [Closeness(3.0, 0.2, 0.5)] * 3
    chance = np.array([[Closeness(1.0, 0.5, 0.9), Closeness(1.0, 0.5, 0.1)]] * 3, object)
    figures = summary(chance, prior, 10.0)
    assert figures["nearer to training records"].value == pytest.approx(0.5)
    assert not figures["nearer to training records"].above_floor
    learnt = np.array([[Closeness(1.0, 0.5, 0.9)] * 2] * 3, object)
    assert summary(learnt, prior, 10.0)["nearer to training records"].above_floor
    # Of a distance, less is the stronger attack.
    assert figures["Frechet distance"].above_floor and figures["precision"].above_floor
    worse = np.array([[Closeness(np.inf, 0.1, 0.5)] * 2] * 3, object)
    failed = summary(worse, prior, 10.0)
    assert failed["Frechet distance"].value == 10 and not failed["Frechet distance"].above_floor
    # Federations vary: the interval covers each one's difference from its own floor.
    uneven = np.array([[Closeness(f - 1.0, 0.5, 0.5)] * 2 for f in (2.0, 5.0, 9.0)], object)
    found = summary(uneven, [Closeness(f, 0.5, 0.5) for f in (2.0, 5.0, 9.0)], 10.0)
    assert found["Frechet distance"].above_floor


def bits_of_two_classes() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [150, 90])
    likely = np.where(np.arange(64) % 2 == y[:, None], 0.9, 0.05)
    order = random.permutation(240)
    return (random.random((240, 64)) < likely).astype(np.float32)[order], y[order]


BITS = (
    "data.features={kind: ecfp, bits: 64}",
    "data.folds={kind: column}",
    "model={kind: mlp, hidden: [16], activation: relu}",
    "training.rounds=60",
    "training.local_steps=1",
    "training.sampling_rate=0.5",
    "training.expected_batch_size=40",
    "privacy={noise: local, epsilon: 1, delta: 1e-4}",
)


def test_a_class_is_learnt_from_a_running_federation_and_noise_is_in_the_way(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes of bits that are clear at once: what is made is nearer to the class than all that
    the participant has, and not under noise that drowns the class. (Little noise does not.)"""
    monkeypatch.setattr(generator, "cryptographic_generator", lambda: np.random.default_rng(0))
    job = make_job(*BITS, "training.learning_rate=0.3").job
    (x, y), own = bits_of_two_classes(), plan(job, "birch")
    assert own
    data = SiloData(Fold(x[:200], y[:200]), Fold(x[200:], y[200:]), "", 0)
    victim = Victim(job, "birch", data, own)
    bare = attack(victim, 1, 60, noise=False)
    victim.plan = replace(own, noise_multiplier=60.0)
    private = attack(victim, 1, 60, noise=True)
    assert bare and private and bare.rounds == 60
    near, far = bare.figures["Frechet distance"], private.figures["Frechet distance"]
    assert near.floor and near.value < 0.7 * near.floor < far.value
    assert bare.real.frechet < near.value, "no better than real records"


def test_what_cannot_be_tried_is_no_score(make_job: MakeJob) -> None:
    (x, y), job = bits_of_two_classes(), make_job(*BITS).job
    own = plan(job, "birch")
    assert own
    few = SiloData(Fold(x[:20], y[:20]), Fold(x[20:24], y[20:24]), "", 0)
    assert attack(Victim(job, "birch", few, own), 1, 10, noise=False) is None
    one_class = SiloData(Fold(x[:200], y[:200] * 0), Fold(x[200:], y[200:] * 0), "", 0)
    assert attack(Victim(job, "birch", one_class, own), 1, 10, noise=False) is None
    # A rate at which training ends in no numbers.
    wild = make_job(*BITS, "training.learning_rate=1e12").job
    data = SiloData(Fold(x[:200], y[:200]), Fold(x[200:], y[200:]), "", 0)
    found = attack(Victim(wild, "birch", data, own), 1, 10, noise=False)
    assert found and all(np.isfinite(f.value) for f in found.figures.values())
    assert not any(f.above_floor for f in found.figures.values()), "one federation proves nothing"


def test_the_class_s_mean_keeps_its_range() -> None:
    drawn = class_mean(normal(500, 2.0), 256, -5.0, 5.0, binary=False)
    assert drawn.mean() == pytest.approx(2.0, abs=0.1) and np.abs(drawn).max() <= 5
    bits = class_mean((normal(500) > 1.0).astype(float), 256, 0.0, 1.0, binary=True)
    assert set(np.unique(bits)) <= {0.0, 1.0} and bits.mean() == pytest.approx(0.16, abs=0.03)

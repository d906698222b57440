"""Adaptive clipping: one mechanism with the planned noise, and a norm that finds its quantile."""

import math

import numpy as np
import pytest

from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.adaptive_clipping import MOST, next_clipping
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters
from tests.conftest import MakeJob

ADAPTIVE = "privacy.clip_quantile=0.6"
SHARED = ("privacy.noise=shared", "training.local_steps=1")


def moved(job: Job, silo: str, total_update_noise: float) -> float:
    """Return how far one record moves sum and count together, in deviations of the noise."""
    own = plan(job, silo)
    assert own
    return math.hypot(own.clip_norm / total_update_noise, 0.5 / own.count_noise)


def test_local_count_and_sum_together_are_the_planned_mechanism(make_job: MakeJob) -> None:
    """Leave the count out of the accounting, and this fails."""
    job, bare = make_job(ADAPTIVE).job, make_job().job
    own, before = plan(job, "alder"), plan(bare, "alder")
    assert own and before and own.noise_multiplier == before.noise_multiplier
    assert own.update_noise > own.noise_multiplier == before.update_noise
    found = moved(job, "alder", own.update_noise * own.clip_norm)
    assert found == pytest.approx(1 / own.noise_multiplier)


def test_each_silos_count_has_at_least_the_updates_noise(make_job: MakeJob) -> None:
    """Many silos share the noise of the count. If each added less than this, the update's noise
    would have to grow without bound."""
    own = plan(
        make_job(ADAPTIVE, "privacy.epsilon=0.5", "training.expected_batch_size=2").job, "alder"
    )
    assert own and own.count_noise >= own.noise_multiplier
    assert own.update_noise <= 1.16 * own.noise_multiplier


def test_shared_count_and_sum_hold_for_the_strictest_silo_too(make_job: MakeJob) -> None:
    job = make_job(ADAPTIVE, *SHARED, "silos.birch.epsilon=1").job
    plans = {name: plan(job, name) for name in job.roster}
    (share,) = {p.share for p in plans.values() if p}
    total = share * math.sqrt(2)  # of two honest silos
    for name, own in plans.items():
        assert own and moved(job, name, total) <= 1 / own.noise_multiplier * (1 + 1e-9)
    assert plans["alder"] and plans["alder"].clip_norm == pytest.approx(job.privacy.clip_norm)


def test_the_count_of_unclipped_records_has_the_noise_of_all_steps(make_job: MakeJob) -> None:
    """Remove the noise on the count, and this fails."""
    job = make_job(ADAPTIVE).job  # two local steps
    own, one = plan(job, "alder"), Fold(np.zeros((5, 4), np.float32), np.zeros(5, np.int64))
    assert own
    counting = Counting(job, own, SiloData(one, one, "", 0), cryptographic_generator())
    shares = []
    for _ in range(300):
        counts = counting.counts(Tally(unclipped=-3.0), None)
        # three silos of 22 expected records, two steps
        found = counting.summarise(counts, 10, 3, evaluated=False).unclipped
        shares.append((found - 0.5) * 3 * 22 * 2)
    assert np.std(shares) == pytest.approx(own.count_noise * math.sqrt(2), rel=0.15)
    assert np.mean(shares) == pytest.approx(-3.0, abs=5 * np.std(shares) / math.sqrt(300))


def test_the_clip_norm_finds_its_quantile_and_stays_within_reach() -> None:
    random = np.random.default_rng(0)
    clipping, norms = 50.0, random.lognormal(0, 1, 5000)
    for _ in range(120):
        clipping = next_clipping(clipping, float((norms <= clipping).mean()), 0.7)
    assert np.quantile(norms, 0.65) < clipping < np.quantile(norms, 0.75)
    low = high = 1.0
    for _ in range(400):
        low, high = next_clipping(low, 1e9, 0.1), next_clipping(high, -1e9, 0.9)
    assert low == 1 / MOST and high == MOST


def test_clip_norm_and_noise_move_together(make_job: MakeJob) -> None:
    """This fails if the clip norm grows without the noise, or if the count is not accounted for."""
    job = make_job(
        ADAPTIVE, "model={kind: mlp, hidden: [900]}", "training.expected_batch_size=5"
    ).job
    own = plan(job, "alder")
    assert own
    none = Fold(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    many = Fold(np.full((50, 4), 9.0, np.float32), np.zeros(50, np.int64))
    deviations = []
    for clipping in (1.0, 4.0):
        model = build_model(job.model, 4, 2, seed=0, private=True)
        trainer = LocalTrainer(model, none, job.training, own, cryptographic_generator())
        update = trainer.train(get_parameters(model), clipping)
        deviations.append(update.values.std())
        assert update.unclipped == 0
        trainer = LocalTrainer(model, many, job.training, own, cryptographic_generator())
        assert trainer.train(get_parameters(model), 1e6 * clipping).unclipped > 0
    assert own.update_noise > 1.1 * own.noise_multiplier
    expected = 0.5 / 5 * own.update_noise * own.clip_norm * math.sqrt(2)  # of two steps
    assert deviations[0] == pytest.approx(expected, rel=0.04)
    assert deviations[1] == pytest.approx(4 * deviations[0], rel=0.1)

"""One simulation for baselines, audit and benchmarks: its formulas, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.simulation import Simulation, mean_update
from blindsum.platform.training.update import Protection, Update
from tests.conftest import MakeJob


def planned(make_job: MakeJob, noise: str, *more: str) -> PrivacyPlan:
    section = f"privacy={{noise: {noise}, epsilon: 3, delta: 1e-4, clip_norm: 0.7}}"
    found = plan(make_job(section, "training.local_steps=1", *more).job, "birch")
    assert found
    return found


def test_a_round_is_the_plain_average_of_local_steps(make_job: MakeJob) -> None:
    """Against two trainers by hand: no noise, no clipping, no optimizer of the server's."""
    job = make_job("privacy={noise: none}", "server={optimizer: sgd}").job
    random = np.random.default_rng(0)
    folds = [
        Fold(random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 2, 20))
        for _ in range(2)
    ]

    def trainers(model: nn.Module) -> list[LocalTrainer]:
        return [
            LocalTrainer(model, fold, job.training, None, seeded_generator(i, "a"))
            for i, fold in enumerate(folds)
        ]

    model = model_of(job)
    start = get_parameters(model)
    moved = [one.train(start).values.astype(np.float64) for one in trainers(model)]
    set_parameters(model, start)
    Simulation(model, trainers(model), job.server).round()
    np.testing.assert_allclose(get_parameters(model), start + np.mean(moved, axis=0), atol=1e-6)


def test_a_bare_sum_is_never_averaged() -> None:
    """Its noise would come from shares that nobody adds here: it would look private and not be."""
    bare = Update(values=np.ones(3, np.float32), unit=-0.1, protected_by=Protection.SHARES_TO_ADD)
    with pytest.raises(PrivacyError, match="carries no noise"):
        mean_update([bare])
    assert "1." not in repr(bare), "values stay out of logs"


def test_shared_plans_leave_their_noise_to_the_shares(make_job: MakeJob) -> None:
    job = make_job("privacy={noise: shared, epsilon: 3, delta: 1e-4}", "training.local_steps=1").job
    own, fold = plan(job, "birch"), Fold(np.zeros((4, 4), np.float32), np.zeros(4, np.int64))
    for chosen, protection in (
        (own, Protection.SHARES_TO_ADD),
        (own.alone() if own else None, Protection.OWN_NOISE),
        (None, Protection.NOTHING),
    ):
        trainer = LocalTrainer(model_of(job), fold, job.training, chosen, seeded_generator(0, "a"))
        assert trainer.train(get_parameters(model_of(job))).protected_by is protection


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_the_plans_of_a_simulation_make_the_noise_that_they_say(
    make_job: MakeJob, noise: str
) -> None:
    """In deviations of a sum of three silos, in units of the clip norm."""
    own, silos = planned(make_job, noise), 3
    sigma = own.noise_multiplier
    of_a_sum = math.sqrt(silos) * np.array(
        [own.in_a_run().noise_multiplier, own.of_the_sum(silos).noise_multiplier]
    )
    if noise == "local":
        assert of_a_sum == pytest.approx(math.sqrt(silos) * sigma)
    else:  # one silo of three may collude: the run's sum holds more than one sigma
        assert of_a_sum == pytest.approx([math.sqrt(silos / 2) * sigma, sigma])
    mean = own.in_the_mean(silos).noise_multiplier
    assert mean == pytest.approx(sigma / (silos if noise == "shared" else math.sqrt(silos)))
    for simulated in (own.alone(), own.in_a_run(), own.of_the_sum(3), own.in_the_mean(3)):
        assert simulated.share is None and simulated.count_noise == 0.0
        assert simulated.clip_norm == own.clip_norm


def test_the_count_of_unclipped_gradients_costs_noise_in_a_run_and_none_alone(
    make_job: MakeJob,
) -> None:
    own = planned(make_job, "local", "privacy.clip_quantile=0.5")
    assert own.alone().update_noise == own.noise_multiplier < own.update_noise
    assert own.in_a_run().update_noise == pytest.approx(own.update_noise)


def test_adam_at_the_server_is_the_runs_own() -> None:
    """Two rounds of a constant change, against the server optimizer by itself."""

    class Constant:
        def train(self, start: np.ndarray, clipping: float = 1.0, round: int = 1) -> Update:
            change = np.full(start.size, 7.0, np.float32)
            return Update(values=change, unit=1.0, protected_by=Protection.NOTHING)

    model = nn.Linear(2, 1)
    before = get_parameters(model)
    section = ServerSection.model_validate({"optimizer": "adam", "learning_rate": 0.1})
    Simulation(model, [Constant()], section).run(2)
    by_itself, expected = ServerOptimizer(section, before.size), before
    for _ in range(2):
        expected = by_itself.apply(expected, np.full(before.size, 7.0))
    np.testing.assert_array_equal(get_parameters(model), expected)

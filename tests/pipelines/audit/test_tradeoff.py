"""What privacy costs: the noise is the one that reaches the mean of all silos' updates."""

from dataclasses import replace

import numpy as np
import pytest

from blindsum.pipelines.audit.attacks.tradeoff import tradeoff
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.table import load_data
from blindsum.platform.privacy.accounting import spent_epsilon
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob


def victim_of(make_job: MakeJob, tmp_path, *overrides: str) -> Victim:  # type: ignore[no-untyped-def]
    job = make_job(*overrides).job
    own = plan(job, "birch")
    assert own
    data = load_data(tmp_path / "birch.parquet", job.data, tmp_path / "rejected")
    return Victim(job, "birch", data, own)


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_noise_in_the_mean_is_what_all_silos_make(  # type: ignore[no-untyped-def]
    make_job: MakeJob, tmp_path, noise: str
) -> None:
    """Against draws of every silo's own noise, averaged."""
    told = f"privacy={{noise: {noise}, epsilon: 2, delta: 1e-4, clip_norm: 0.7}}"
    victim = victim_of(make_job, tmp_path, told, "training.local_steps=1")
    planned, silos = victim.plan, 3
    honest = silos - (1 if noise == "shared" else 0)  # the shares of so many are the plan's noise
    deviation = planned.share if planned.share else planned.update_noise * planned.clip_norm
    drawn = np.random.default_rng(0).normal(0, deviation, (100_000, honest)).sum(1) / silos
    own = victim.in_the_mean()
    assert own.update_noise * own.clip_norm == pytest.approx(drawn.std(), rel=0.02)
    assert victim.in_the_mean(0.5).update_noise == pytest.approx(own.update_noise / 2)
    stricter = victim.in_the_mean(epsilon=1.0)
    sigma = planned.noise_multiplier * stricter.update_noise / own.update_noise
    steps = planned.rounds * planned.steps_per_round
    assert spent_epsilon(sigma, planned.sampling_rate, steps, 1e-4) == pytest.approx(1.0, rel=0.01)


def test_more_noise_costs_more(make_job: MakeJob, tmp_path) -> None:  # type: ignore[no-untyped-def]
    victim = victim_of(make_job, tmp_path, "training.rounds=20", "privacy.epsilon=0.02")
    points = tradeoff(victim, 3)
    assert points
    assert [p.epsilon for p in points] == [None, 0.02, 1.0, 3.0, 8.0]
    by = {p.epsilon: p.score.value for p in points}
    assert by[None] > 0.85 and by[8.0] > 0.85 and by[0.02] < 0.85
    victim.plan = replace(victim.plan, rounds_within_budget=5000)
    assert tradeoff(victim, 1) is None

"""A classifier gives planted texts away, and with privacy it does not."""

from dataclasses import replace

import numpy as np
import pytest

from blindsum.pipelines.audit.attacks import text_canaries
from blindsum.pipelines.audit.attacks.exposure import exposures, median_exposure, most_allowed
from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.pipelines.audit.attacks.text_canaries import (
    OFTEN,
    ONCE,
    REPEATED,
    exposed,
    made_up,
    with_canaries,
)
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.ragged import Bytes
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.data.table import SiloData
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

TEXT = (
    "data.features={kind: text, column: note, length: 24}",
    "model={kind: transformer, width: 16, heads: 2, layers: 1, hidden: 16}",
    "training.local_steps=1",
    "training.sampling_rate=0.5",
    "training.expected_batch_size=40",
    "training.rounds=60",
    "training.learning_rate=1.0",
    "server={optimizer: adam, learning_rate: 0.02}",
)


@pytest.fixture
def victim(make_job: MakeJob) -> Victim:
    job, random = make_job(*TEXT).job, np.random.default_rng(0)
    words = ["calm", "well", "rest", "pain", "fever", "cough"]
    labels = random.integers(0, 2, 60)
    texts = [" ".join(random.choice(words[3 * y : 3 * y + 3], 3)).encode() for y in labels]
    fold = Fold(Bytes.of(texts, 24), labels.astype(np.int64))
    return Victim(job, "birch", SiloData(fold, fold, "", 0), plan_by_hand(noise_multiplier=16.0))


def recipe(victim: Victim, noise: float) -> Recipe:
    plan = replace(victim.alone(), noise_multiplier=noise)
    return Recipe(victim.job.training, victim.job.server, victim.job.training.rounds, plan)


def test_planted_texts_are_exposed_without_noise_and_not_with_the_plan_s(victim: Victim) -> None:
    bare = exposed(victim, recipe(victim, 0.0), 2, np.inf)
    kept = exposed(victim, recipe(victim, victim.alone().update_noise), 2, np.inf)
    assert bare and kept and bare.models == 2
    once, often = bare.figures.values()
    assert once.above_floor and often.above_floor and often.value > 2.0
    # Of texts that stand there several times, the plan promises less.
    assert not kept.figures["exposure (bits)"].above_floor


def test_canaries_join_a_copy(victim: Victim) -> None:
    before = victim.data.train.features.copy()
    canaries = made_up(24, np.random.default_rng(1))
    planted = with_canaries(victim, canaries)
    assert len(planted) == 60 + ONCE + REPEATED * OFTEN
    assert (dense(planted.stored)[:60] == before).all() and len(victim.data.train) == 60
    added = dense(planted.stored)[60:]
    assert len(np.unique(added, axis=0)) == ONCE + OFTEN and (added > 0).all()
    assert set(planted.labels[60:]) == {0, 1}, "no label tells of a canary"


def test_short_texts_and_short_times(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_canaries, "seconds_of_one", lambda *_: 100.0)
    quick = replace(recipe(victim, 0.0), rounds=1)
    found = exposed(victim, quick, 5, 50.0)
    assert found and found.models == 1
    victim.job = victim.job.model_copy(
        update={
            "data": victim.job.data.model_copy(
                update={"features": victim.job.data.features.model_copy(update={"length": 5})}
            )
        }
    )
    assert exposed(victim, quick, 5, 50.0) is None


def test_exposure_is_the_rank_in_bits() -> None:
    others = np.arange(1.0, 1024.0)
    found = exposures(np.array([0.5, 511.5, 5000.0]), others)
    assert found.tolist() == pytest.approx([10.0, 1.0, 0.0])
    random = np.random.default_rng(0)
    chance = median_exposure(exposures(random.random(200), random.random(1000)))
    assert chance.value == pytest.approx(1.0, abs=0.3) and not chance.above_floor
    assert most_allowed(0.0, 0.0) == pytest.approx(1.0), "no bit more than chance"
    assert most_allowed(3 * np.log(2), 1e-9) == pytest.approx(4.0)
    assert median_exposure(np.array([9.0, 10.0])).low == 0.0, "of two nothing is known"

"""Statistics through the protocol: real ciphertext, charges, and what leaves a silo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blindsum.pipelines.statistics.derived import derived
from blindsum.platform.data.records import dense
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.file import JobFile
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.figures import Figures, figures_of
from tests.actors.test_trees import SentByRound
from tests.conftest import COLUMNS, MakeJob

SHARED = ("privacy={noise: shared, epsilon: 3, delta: 1.0e-4}", "training.local_steps=1")


def statistics_of(job_file: JobFile, epsilon: float | None = None) -> JobFile:
    return derived(job_file, epsilon)


def figures(made: SentByRound) -> Figures:
    silo = made.silos["alder"]
    job: Any = silo._job
    return figures_of(Describing(job, job.model), silo._model.vector)


def everything(made: SentByRound, name: str) -> np.ndarray:
    """All silos' values of a column, in its unit."""
    at, found = 2 * list(COLUMNS).index(name), []
    for silo in made.silos.values():
        for fold in (silo._own.data.train, silo._own.data.test):
            scale = silo._job.data.features.columns[name].scale  # type: ignore[union-attr]
            found.append(dense(fold.stored)[:, at].astype(np.float64) * scale)
    return np.concatenate(found)


def test_encrypted_statistics_are_exact_and_of_all_records(make_job: MakeJob) -> None:
    made = SentByRound(statistics_of(make_job("privacy={noise: none}")))
    for number in (1, 2, 3):
        made.round(number)
    found = figures(made)
    assert found.exact and found.records.value == 450  # training and held-out records
    for one in found.numbers:
        truth = everything(made, one.name)
        assert one.mean.value == pytest.approx(truth.mean(), rel=1e-9)
        assert one.deviation.value == pytest.approx(truth.std(), rel=1e-8)
    models = made.models()
    assert all(np.array_equal(models[0], one) for one in models)


def test_a_run_under_shared_noise_is_charged_and_noised_as_planned(make_job: MakeJob) -> None:
    job_file = statistics_of(make_job(*SHARED), 2.0)
    made = SentByRound(job_file)
    own = plan(job_file.job, "alder")
    assert own is not None and own.epsilon == 2.0 and own.rounds == 3
    for number in (1, 2, 3):
        made.round(number)
    spent = [silo._books.ledger.lifetime(silo._books._dataset) for silo in made.silos.values()]
    assert all(one.epsilon == pytest.approx(own.epsilon_planned) for one in spent)
    found = figures(made)
    half = (found.records.high - found.records.low) / 2
    assert abs(found.records.value - 450) < 2.5 * half and not found.exact  # the noise is real


def test_a_budget_is_needed_and_labels_that_all_know(make_job: MakeJob) -> None:
    with pytest.raises(BlindsumError, match="statistics need a budget of their own"):
        statistics_of(make_job(*SHARED))
    with pytest.raises(BlindsumError, match="above the budget of silos .birch 1."):
        statistics_of(make_job(*SHARED, "silos.birch.epsilon=1"), 2.0)
    found: Any = statistics_of(make_job(*SHARED, "privacy.describe_epsilon=0.5")).job
    assert found.privacy.epsilon == 0.5

"""Summed counts, compared with scikit-learn; noise on held-out counts, and their sensitivity."""

import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import JobError, PrivacyError
from blindsum.platform.evaluation.classes import UNITS
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.job.model_section import Linear
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import HELD_OUT_SENSITIVITY, metrics_plan, plan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.models import build_model, set_parameters
from tests.conftest import MakeJob

NOISED = ("privacy.metrics_epsilon=1", "privacy.metrics_every=2")
SHARED = ("privacy.noise=shared", "training.local_steps=1")


def fold(records: int, seed: int) -> Fold:
    random = np.random.default_rng(seed)
    return Fold(random.normal(size=(records, 4)).astype(np.float32), random.integers(0, 2, records))


def counting(job: Job, one: Fold, dropped: int = 0) -> Counting:
    data = SiloData(one, one, "", dropped)
    return Counting(job, plan(job, "alder"), data, cryptographic_generator())


def counted(one: Counting, model: nn.Module, tally: Tally | None = None) -> np.ndarray:
    return one.counts(tally or Tally(), one.of_held_out(model))


def linear() -> nn.Module:
    return build_model(Linear(kind="linear"), 4, 2, seed=0, private=True)


def test_summed_counts_are_the_pooled_metrics(make_job: MakeJob) -> None:
    job, model = make_job().job, linear()
    folds = [fold(n, n) for n in (30, 17, 45)]
    counts = [counted(counting(job, f, 1), model, Tally(2, 4)) for f in folds]
    summed = np.sum(counts, axis=0)
    metrics = counting(job, folds[0]).summarise(summed, values=60, silos=3, evaluated=True)
    features = np.concatenate([one.features for one in folds])
    labels = np.concatenate([one.labels for one in folds])
    with torch.no_grad():
        p = torch.softmax(model(torch.from_numpy(features)).double(), 1).numpy()
    found = metrics.held_out
    assert found and found.records == 92 and found.dropped == 3 and metrics.saturated == 0.1
    assert found.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert found.loss == pytest.approx(log_loss(labels, p), abs=1e-4)
    assert found.largest_class == pytest.approx(np.bincount(labels).max() / 92)
    assert found.deviation == 0 and metrics.unclipped is None
    assert {"accuracy", "saturated"} <= set(metrics.as_dict())


def test_a_model_that_overflowed_counts_as_lost_not_as_an_error(make_job: MakeJob) -> None:
    job, model = make_job().job, linear()
    one = counting(job, fold(20, 1))
    set_parameters(model, np.full(10, np.nan, np.float32))
    metrics = one.summarise(counted(one, model), 10, 3, evaluated=True)
    found = metrics.held_out
    assert found and "accuracy: diverged" in found.detail() and "32" not in found.detail()
    assert found.score.written == "diverged"
    assert not {"accuracy", "loss", "accuracy_low"} & {*found.as_dict(), *found.tracked()}
    assert found.tracked()["accuracy_diverged"] == 1.0


@pytest.mark.parametrize("privacy", [(), ("privacy={noise: none}",)])
def test_held_out_records_are_evaluated_in_the_rounds_that_the_job_sets(
    privacy: tuple[str, ...], make_job: MakeJob
) -> None:
    job = make_job(*privacy, "training.rounds=5", "privacy.metrics_every=2").job
    assert [r for r in range(1, 6) if job.evaluates(r)] == [2, 4, 5]
    one = counting(job, fold(20, 1))
    assert [r for r in range(6) if one.evaluates(r, job.roster)] == [2, 4, 5]
    assert not one.evaluates(2, job.roster[:2]), "exact counts are of all silos"
    nothing = one.counts(Tally(), None)
    assert not nothing.any()
    assert one.summarise(nothing, 10, 3, evaluated=False).held_out is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    record=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4),
    label=st.integers(0, 1),
    scale=st.sampled_from([1.0, 1e3, float("nan")]),
)
def test_a_record_moves_the_held_out_sums_by_no_more_than_their_sensitivity(
    make_job: MakeJob, record: list[float], label: int, scale: float
) -> None:
    """This fails if a loss is not cut, or if a record counts twice."""
    model, few = linear(), fold(5, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    more = Fold(
        np.vstack([few.features, np.array([record], np.float32)]), np.append(few.labels, label)
    )
    job = make_job(*NOISED).job
    moved = counting(job, more)._of_held_out._sums(model) - counting(job, few)._of_held_out._sums(
        model
    )
    assert np.linalg.norm(moved) <= HELD_OUT_SENSITIVITY * (1 + 1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_noise_on_held_out_counts_has_the_planned_deviation(
    make_job: MakeJob, shared: bool
) -> None:
    """This fails if the noise is removed, scaled or coarsely rounded."""
    job, model = make_job(*NOISED, *(SHARED if shared else ())).job, linear()
    planned = metrics_plan(job)
    assert planned
    whole = planned.noise_multiplier * HELD_OUT_SENSITIVITY
    assert planned.share == pytest.approx(whole / math.sqrt(2) if shared else whole)
    one = counting(job, fold(60, 3), 2)
    drawn = np.array([counted(one, model)[3:] for _ in range(400)]) * planned.share / UNITS
    exact = one._of_held_out._sums(model)
    np.testing.assert_allclose(drawn.mean(0), exact, atol=5 * planned.share / 20)
    np.testing.assert_allclose(drawn.std(0), planned.share, rtol=0.2)


def test_the_plan_for_held_out_records_agrees_with_dp_accounting(make_job: MakeJob) -> None:
    """Evaluation in rounds 2, 4, 6, 8, 10 and 11 is six Gaussian mechanisms without sampling."""
    planned = metrics_plan(make_job(*NOISED, "training.rounds=11").job)
    assert planned and planned.rounds == 6 and planned.epsilon_planned <= 1
    event = dp_accounting.GaussianDpEvent(planned.noise_multiplier)
    found = PLDAccountant(value_discretization_interval=1e-4).compose(event, 6).get_epsilon(1e-4)
    assert found == pytest.approx(1.0, abs=0.01)


def test_the_noise_on_the_accuracy_is_reported(make_job: MakeJob) -> None:
    job, model = make_job(*NOISED).job, linear()
    ones = [counting(job, fold(400, seed)) for seed in (1, 2, 3)]

    def evaluated() -> tuple[float, float]:
        summed = np.sum([counted(one, model) for one in ones], axis=0)
        found = ones[0].summarise(summed, 30, 3, evaluated=True).held_out
        assert found
        return found.accuracy, found.deviation

    drawn = np.array([evaluated() for _ in range(300)])
    assert drawn[:, 0].std() == pytest.approx(drawn[:, 1].mean(), rel=0.2)


def test_impossible_budgets_of_held_out_records_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(
        JobError, match=r"metrics_epsilon 4 is above the budget of a silo's records, 3"
    ):
        make_job("privacy.metrics_epsilon=4")
    with pytest.raises(JobError, match=r"above the budget of a silo's records, 0\.5"):
        make_job("privacy.metrics_epsilon=1", "silos.birch.epsilon=0.5")
    job = make_job("privacy.metrics_epsilon=0.0001", "training.rounds=400").job
    with pytest.raises(PrivacyError, match="not possible with 400 evaluations.*metrics_every"):
        metrics_plan(job)

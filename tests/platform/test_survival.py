"""Survival: that of statsmodels on the pooled records' bins, and intervals that cover the noise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import JobError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.figures import figures_of
from blindsum.platform.training.statistics.parts import Found
from blindsum.platform.training.statistics.survival_figures import (
    SurvivalFigures,
    _projected,
    survival_figures,
)
from blindsum.platform.training.sums import SumsOptimizer
from tests.conftest import job_content
from tests.platform.test_statistics import of_statistics

END = 20
SHARED = {"noise": "shared", "epsilon": 3, "delta": 1e-5}
Records = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Times, whether the event happened, and groups."""


def job(tmp_path: Path, privacy: dict[str, Any] | None = None, **more: Any) -> Job:
    content = job_content(tmp_path)
    columns = {
        "months": {"scale": 2.0**39, "missing": {"value": 0.0, "indicator": True}},
        "arm": {"categories": ["a", "b"], "other": True},
    }
    content["data"] |= {
        "features": {"kind": "columns", "columns": columns},
        "target": {"column": "died", "classes": ["no", "yes"]},
    }
    survival = {"time": "months", "event": "died", "groups": "arm"} | more
    edges = more.get("edges", [float(i + 1) for i in range(END)])
    return of_statistics(content, privacy, survival=survival | {"edges": edges})


def records(count: int, random: np.random.Generator, ratio: float = 1.0) -> Records:
    """Exponential times, in whole months: 8 on average, in the second group `ratio` times that."""
    group = random.integers(0, 2, count)
    times = np.ceil(random.exponential(8.0, count) * np.where(group == 1, ratio, 1.0))
    censored = np.ceil(random.uniform(2, 30, count))
    return np.minimum(times, censored), times <= censored, group


def fold(of: Records) -> Fold:
    times, happened, group = of
    features = np.zeros((len(times), 5), np.float32)
    features[:, 0] = np.nan_to_num(times) / 2.0**39
    features[:, 1] = np.isnan(times)
    features[np.arange(len(times)), 2 + group] = 1
    return Fold(features, happened.astype(np.int64))


def estimated(one: Job, silos: list[Records]) -> SurvivalFigures:
    describing = Describing(one, one.model)  # type: ignore[arg-type]
    vector, optimizer = get_parameters(model_of(one)), SumsOptimizer(describing, one)
    trainers = []
    for i, (name, of) in enumerate(zip(one.roster, silos, strict=True)):
        half = len(of[0]) // 2
        halves = [fold(tuple(x[at] for x in of)) for at in (slice(half), slice(half, None))]  # type: ignore[arg-type]
        data: Any = SimpleNamespace(train=halves[0], test=halves[1], identifiers=None)
        trainers.append(describing.trainer(data, plan(one, name), np.random.default_rng(i)))
    for round in (1, 2, 3):
        updates = [silo.train(vector, 1.0, round) for silo in trainers]
        mean = np.mean([update.values * update.unit for update in updates], axis=0)
        vector = optimizer.apply(vector, mean, round, len(silos))
    found = figures_of(describing, vector).survival
    assert found is not None
    return found


def pooled(silos: list[Records]) -> Records:
    times, happened, group = (np.concatenate(one) for one in zip(*silos, strict=True))
    return np.minimum(times, END), happened & (times <= END), group


def test_without_privacy_curves_and_test_are_those_of_statsmodels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    silos = [records(count, random, 1.5) for count in (150, 200, 250)]
    found, (times, happened, group) = estimated(job(tmp_path), silos), pooled(silos)
    for which, curve in zip((0, 1), found.curves, strict=True):
        oracle = SurvfuncRight(times[group == which], happened[group == which].astype(int))
        at = np.searchsorted(found.ends, oracle.surv_times)
        np.testing.assert_allclose(np.array(curve.survival)[at], oracle.surv_prob, rtol=1e-12)
        np.testing.assert_array_equal(np.array(curve.at_risk)[at], oracle.n_risk)
        logs = np.log(oracle.surv_prob)
        spread = 1.959963985 * oracle.surv_prob_se / oracle.surv_prob / np.abs(logs)
        for sign, end in ((1, curve.low), (-1, curve.high)):
            ends = np.exp(-np.exp(np.log(-logs) + sign * spread))
            np.testing.assert_allclose(np.array(end)[at], ends, rtol=1e-7)
        median = curve.median
        assert median.value == oracle.quantile(0.5)
        assert (median.low, median.high) == oracle.quantile_ci(0.5)
        assert curve.records.value == (group == which).sum()
        assert curve.events.value == happened[group == which].sum() and curve.events.is_exact
        # The mean of the time up to the end is the area under the curve.
        area = np.sum(np.append(1.0, curve.survival[:-1]) * np.diff(found.ends, prepend=0.0))
        assert curve.mean.value == pytest.approx(area)
    chi2, p = survdiff(times, happened.astype(int), group)
    assert found.log_rank is not None and found.log_rank.degrees == 1
    assert found.log_rank.chi2 == pytest.approx(chi2) and found.log_rank.p == pytest.approx(p)


def test_the_restricted_mean_has_the_spread_of_repeated_samples() -> None:
    random, means, said = np.random.default_rng(0), [], []
    for _ in range(300):
        times, happened, _ = pooled([records(300, random)])
        counts = np.zeros((1, 2, END))
        np.add.at(counts, (0, np.where(happened, 0, 1), times.astype(int) - 1), 1)
        (curve,) = survival_figures(counts, 0.0, np.arange(1.0, END + 1), ("",), random).curves
        means.append(curve.mean.value)
        said.append((curve.mean.high - curve.mean.low) / 2 / 1.96)
    assert np.mean(said) == pytest.approx(np.std(means), rel=0.12)


def test_intervals_cover_the_truth_under_noise_and_the_test_seldom_errs(tmp_path: Path) -> None:
    one = job(tmp_path, SHARED)
    events = Describing(one, one.model).survival  # type: ignore[arg-type]
    assert events is not None
    describing = Describing(one, one.model)  # type: ignore[arg-type]
    deviation = describing.noise / describing.weight(events, 1)
    random, truth = np.random.default_rng(0), np.exp(-np.arange(1, END + 1) / 8)
    covered, medians, means, rejected, runs = [], [], [], 0, 120
    area = np.append(1.0, truth[:-1]).sum()
    for _ in range(runs):
        values = _values(one, records(2000, random))
        noised = events.collect(values, Found({}, {})) + random.normal(0, deviation, events.shape)
        found = survival_figures(noised, deviation, events.ends, events.groups, random)
        for curve in found.curves:
            covered.append((np.array(curve.low) <= truth) & (truth <= np.array(curve.high)))
            medians.append(curve.median.low <= 6 <= curve.median.high)
            means.append(curve.mean.low <= area <= curve.mean.high)
            assert list(curve.survival) == sorted(curve.survival, reverse=True)
        assert found.log_rank is not None
        rejected += found.log_rank.p < 0.05
    assert 0.90 < np.mean(covered) < 0.99
    assert np.mean(medians) > 0.9 and np.mean(means) > 0.88
    assert rejected / runs < 0.12
    times = records(2000, random, 2.0)
    noised = events.collect(_values(one, times), Found({}, {}))
    noised += random.normal(0, deviation, events.shape)
    apart = survival_figures(noised, deviation, events.ends, events.groups, random).log_rank
    assert apart is not None and apart.p < 1e-4


def _values(one: Job, of: Records) -> Any:
    describing, made = Describing(one, one.model), fold(of)  # type: ignore[arg-type]
    return describing.variables.values(
        made.features.astype(np.float64), made.labels.astype(np.float64)
    )


def test_each_record_counts_once_and_those_with_gaps_nowhere(tmp_path: Path) -> None:
    one = job(tmp_path)
    events = Describing(one, one.model).survival  # type: ignore[arg-type]
    assert events is not None and events.norm == 1.0

    def counts(time: float, event: int, group: int) -> np.ndarray:
        of = (np.array([time]), np.array([event]), np.array([group]))
        return events.collect(_values(one, of), Found({}, {}))

    for time in (0.0, 0.5, 1.0, 1.0000001, 7.3, 19.999, 20.0, 20.5, 1e6):
        for event in (0, 1):
            found = counts(time, event, 1)
            assert found.sum() == 1 and found.max() == 1
            (at,) = np.argwhere(found)
            assert at[0] == 1 and at[2] == min(max(np.ceil(time - 1e-5) - 1, 0), END - 1)
            assert at[1] == (0 if event and time <= END else 1)
    assert counts(np.nan, 1, 0).sum() == 0
    assert counts(3.0, 1, 2).sum() == 0, "a group that the job does not name"


@given(st.lists(st.floats(-50, 200), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_projected_counts_are_the_nearest_of_their_sum(noised: list[float]) -> None:
    counts = np.array(noised)
    found = _projected(counts)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(max(counts.sum(), 0.0), abs=1e-6)
    if (counts >= 0).all():
        np.testing.assert_allclose(found, counts, atol=1e-9)
    positive = found > 1e-9  # Karush-Kuhn-Tucker: one shift for all that stay, no less for others
    if positive.any():
        shifts = (counts - found)[positive]
        assert np.ptp(shifts) < 1e-6 and (counts[~positive] <= shifts.max() + 1e-6).all()


def test_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for more, said in (
        ({"time": "arm"}, "model.survival.time names 'arm', which is not a column of numbers"),
        ({"event": "age"}, "model.survival.event names 'age', which is not"),
        ({"groups": "age"}, "model.survival.groups names 'age', which is not"),
    ):
        more = {"groups": None, **more}
        with pytest.raises(JobError, match=said):
            one = job(tmp_path, **more)
            Describing(one, one.model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ascending order"):
        job(tmp_path, edges=[2.0, 1.0])
    with pytest.raises(ValueError, match="must be different columns"):
        job(tmp_path, groups="died")


def test_survival_takes_no_groups(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    silos = [records(100, random) for _ in range(3)]
    found = estimated(job(tmp_path, groups=None), silos)
    assert [one.group for one in found.curves] == [""] and found.log_rank is None
    assert found.curves[0].records.value == 300

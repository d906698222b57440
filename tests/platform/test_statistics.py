"""Statistics of several silos: those of their pooled records, however many silos there are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from blindsum.pipelines.statistics.page import as_page
from blindsum.pipelines.statistics.table import tables as tables_of
from blindsum.platform.data.records import Fold
from blindsum.platform.errors import DataError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.statistics.describing import Describer, Describing
from blindsum.platform.training.statistics.figures import Figures, figures_of
from blindsum.platform.training.statistics.histograms import (
    COARSE,
    Histogram,
    covariance,
    reconciled,
)
from blindsum.platform.training.statistics.interval import Figure
from blindsum.platform.training.statistics.pairs import as_pairs, of_pairs
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.vector import Vector
from tests.conftest import job_content

WIDE = 2.0**39
OTHERS = tuple(f"x{i}" for i in range(6))
NUMBERS = ("age", "weight", "pressure", *OTHERS)
SHARED = {"noise": "shared", "epsilon": 5, "delta": 1e-5}
RECORDS = 600


def of_statistics(
    content: dict[str, Any], privacy: dict[str, Any] | None = None, **model: Any
) -> Job:
    """Return the job of statistics of a content with its data."""
    content["data"].pop("tasks", None)
    content["model"] = {"kind": "statistics", **model}
    content["training"] = {
        "rounds": 3,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": 5000,
        "learning_rate": 1.0,
    }
    content["privacy"] = privacy or {"noise": "none"}
    content["encryption"] = {"bits": 24}
    return Job.model_validate(content)


def job(tmp_path: Path, privacy: dict[str, Any] | None = None, **more: Any) -> Job:
    content = job_content(tmp_path)
    columns: dict[str, Any] = {
        name: {"scale": WIDE, "missing": {"value": 0.0, "indicator": True}} for name in NUMBERS
    }
    columns["sex"] = {"categories": ["f", "m"], "other": True, "missing": {"indicator": True}}
    content["data"] |= {
        "features": {"kind": "columns", "columns": columns},
        "target": {"column": "ill", "classes": ["no", "yes"]},
    }
    return of_statistics(content, privacy, **more)


def table(count: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    age = random.normal(50, 12, count)
    found = pd.DataFrame(
        {
            "age": age,
            "weight": 40 + 0.6 * age + random.normal(0, 5, count) + shift,
            "pressure": random.normal(13e4, 1e4, count),
            **{name: random.normal(0, 1, count) for name in OTHERS},
        }
    ).astype(np.float32)
    found.loc[random.random(count) < 0.15, "pressure"] = np.nan
    found["sex"] = random.choice(["f", "m", "x", None], count, p=[0.5, 0.4, 0.05, 0.05])
    found["ill"] = np.where(random.random(count) < 0.3, "yes", "no")
    return found


def folds(records: pd.DataFrame) -> tuple[Fold, Fold]:
    """Half of the records as training records, half held out, as a silo has read them."""
    width = 2 * len(NUMBERS)
    features = np.zeros((len(records), width + 4), np.float32)
    for i, name in enumerate(NUMBERS):
        values = records[name].to_numpy()
        features[:, 2 * i] = np.nan_to_num(values) / WIDE
        features[:, 2 * i + 1] = np.isnan(values)
    for i, one in enumerate(("f", "m", "x")):
        features[:, width + i] = records["sex"] == one
    features[:, width + 3] = records["sex"].isna()
    labels = (records["ill"] == "yes").to_numpy().astype(np.int64)
    half = len(records) // 2
    return Fold(features[:half], labels[:half]), Fold(features[half:], labels[half:])


def trainers(one: Job, tables: list[pd.DataFrame]) -> tuple[Describing, list[Describer]]:
    describing = Describing(one, one.model)  # type: ignore[arg-type]
    made = []
    for i, (name, records) in enumerate(zip(one.roster, tables, strict=True)):
        train, test = folds(records)
        data: Any = SimpleNamespace(train=train, test=test, identifiers=None)
        made.append(describing.trainer(data, plan(one, name), np.random.default_rng(i)))
    return describing, made


def described(one: Job, tables: list[pd.DataFrame], seed: int = 0) -> tuple[Figures, Vector]:
    describing, silos = trainers(one, tables)
    vector, optimizer = get_parameters(model_of(one)), SumsOptimizer(describing, one)
    random, share = np.random.default_rng(seed), getattr(plan(one, one.roster[0]), "share", None)
    for round in (1, 2, 3):
        updates = [silo.train(vector, 1.0, round) for silo in silos]
        total = sum(update.values for update in updates)
        if share:  # the digitiser adds each silo's share
            total = total + random.normal(0, share * np.sqrt(len(tables)), total.size)
        mean = total * updates[0].unit / len(tables)
        vector = optimizer.apply(vector, mean, round, len(tables))
    return figures_of(describing, vector), vector


def three(count: int = RECORDS, seed: int = 0, shift: float = 0.0) -> list[pd.DataFrame]:
    return [table(count + 50 * i, 10 * seed + i, shift * (i == 2)) for i in range(3)]


def test_without_privacy_figures_are_those_of_all_records(tmp_path: Path) -> None:
    tables = three()
    found, _ = described(job(tmp_path), tables)
    pooled = pd.concat(tables, ignore_index=True)
    assert found.exact and found.records == Figure(len(pooled), len(pooled), len(pooled))
    for one in found.numbers:
        column = pooled[one.name].astype(np.float64)
        assert one.missing.value == pytest.approx(column.isna().mean(), abs=1e-12)
        assert one.mean.value == pytest.approx(column.mean(), rel=1e-9)
        assert one.deviation.value == pytest.approx(column.std(ddof=0), rel=1e-8)
        assert one.mean.is_exact and one.deviation.is_exact and one.cut is None
        assert sum(one.counts) == column.notna().sum()
        for share, quantile in one.quantiles.items():
            inside = column.quantile(share, "lower"), column.quantile(share, "higher")
            assert quantile.low <= inside[1] and inside[0] <= quantile.high
            assert quantile.high - quantile.low <= 3 * (one.edges[1] - one.edges[0])
    sex, ill = found.categories
    assert {k: v.value for k, v in sex.levels.items()} == {
        "f": (pooled["sex"] == "f").sum(),
        "m": (pooled["sex"] == "m").sum(),
        "(other)": (pooled["sex"] == "x").sum(),
    }
    assert sex.missing.value == pytest.approx(pooled["sex"].isna().mean())
    assert ill.is_label and ill.levels["yes"].value == (pooled["ill"] == "yes").sum()


def test_correlations_are_those_of_complete_records(tmp_path: Path) -> None:
    tables = three()
    found = described(job(tmp_path), tables)[0].correlations
    assert found is not None and found.names == (*NUMBERS, "ill")
    pooled = pd.concat(tables, ignore_index=True)[[*NUMBERS, "ill"]].dropna()
    pooled["ill"] = pooled["ill"] == "yes"
    np.testing.assert_allclose(found.matrix, pooled.astype(np.float64).corr(), atol=1e-8)
    assert found.records.value == len(pooled) and not np.any(found.deviations)


def test_a_column_with_many_gaps_is_left_out_of_correlations(tmp_path: Path) -> None:
    tables = three()
    for one in tables:
        one.loc[one.index[::2], "pressure"] = np.nan
    found = described(job(tmp_path), tables)[0].correlations
    assert found is not None and found.names == ("age", "weight", *OTHERS, "ill")
    assert found.records.value == sum(map(len, tables))


def test_differences_have_the_p_values_of_the_usual_tests(tmp_path: Path) -> None:
    tables = three(shift=4.0)
    found = described(job(tmp_path), tables)[0]
    by_name = {one.name: one.differs for one in (*found.numbers, *found.categories)}
    for name in NUMBERS:
        p = stats.f_oneway(*(one[name].dropna().astype(np.float64) for one in tables)).pvalue
        assert by_name[name].p == pytest.approx(p, rel=1e-4)  # type: ignore[union-attr]
    counts = [[(one["ill"] == value).sum() for value in ("no", "yes")] for one in tables]
    p = stats.chi2_contingency(counts, correction=False).pvalue
    assert by_name["ill"].p == pytest.approx(p, rel=1e-6)  # type: ignore[union-attr]
    assert by_name["weight"].found and not by_name["age"].found  # type: ignore[union-attr]


@settings(deadline=None, max_examples=15)
@given(
    numbers=st.lists(
        st.one_of(st.floats(-1e11, 1e11), st.just(float("nan"))),
        min_size=len(NUMBERS),
        max_size=len(NUMBERS),
    ),
    sex=st.sampled_from(["f", "m", "x", None]),
    ill=st.booleans(),
)
def test_a_record_moves_the_sums_of_a_round_by_at_most_the_clip_norm(
    numbers: list[float], sex: str | None, ill: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever it holds, in every round, at the tables that honest rounds lead to."""
    one = job(tmp_path_factory.mktemp("job"), SHARED)
    describing, silos = trainers(one, three(40))
    rest = silos[0]
    record = pd.DataFrame(
        [[*numbers, sex, "yes" if ill else "no"]], columns=[*NUMBERS, "sex", "ill"]
    )
    more = pd.concat([table(40, 0), record], ignore_index=True)
    train, test = folds(more)
    _, vector = described(one, three(40))
    for round in (1, 2, 3):
        with_it = Describer(describing, (train, test), plan(one, "alder"), np.random.default_rng(5))
        without = Describer(describing, rest._folds, plan(one, "alder"), np.random.default_rng(5))
        a, b = (silo.sums(vector, 1.0, round)[0] for silo in (with_it, without))
        moved = float(np.linalg.norm(a - b))
        assert moved <= 1 + 1e-9, round


def test_intervals_cover_what_the_silos_hold(tmp_path: Path) -> None:
    one, tables = job(tmp_path, SHARED), three(2000)
    pooled, seeds = pd.concat(tables, ignore_index=True), 15
    covered = list[tuple[str, bool]]()

    def cover(what: str, figure: Figure, truth: float) -> None:
        if np.isfinite(figure.value):
            covered.append((what, figure.low <= truth <= figure.high))

    for seed in range(seeds):
        found = described(one, tables, seed)[0]
        cover("records", found.records, len(pooled))
        for number in found.numbers:
            column = pooled[number.name].astype(np.float64)
            cover("missing", number.missing, column.isna().mean())
            cover("mean", number.mean, column.mean())
            cover("deviation", number.deviation, column.std(ddof=0))
            for share, quantile in number.quantiles.items():
                cover("quantile", quantile, column.quantile(share))
        for category in found.categories:
            for level, figure in category.levels.items():
                written = "x" if level == "(other)" else level
                cover("level", figure, (pooled[category.name] == written).sum())
    for what in {what for what, _ in covered}:
        inside = [one for kind, one in covered if kind == what]
        assert np.mean(inside) > 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / len(inside)), what


def test_differences_under_noise_are_found_and_seldom_invented(tmp_path: Path) -> None:
    one = job(tmp_path, SHARED)
    alike = [described(one, three(2000, seed), seed)[0] for seed in range(8)]
    apart = described(one, three(2000, shift=8.0))[0]
    invented = [
        number.differs is not None and number.differs.found
        for found in alike
        for number in (*found.numbers, *found.categories)
    ]
    assert sum(invented) <= 1
    assert {n.name for n in apart.numbers if n.differs and n.differs.found} == {"weight"}


def test_a_silo_with_more_records_than_the_sums_allow_takes_no_part(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more records than training.expected_batch_size, 5,000"):
        trainers(job(tmp_path, SHARED), [table(5001, 0), *three()[1:]])


def test_public_bounds_take_the_place_of_the_first_round_s(tmp_path: Path) -> None:
    bounds = {"age": {"low": 0.0, "high": 100.0}}
    found = described(job(tmp_path, SHARED, bounds=bounds), three(2000))[0]
    age = next(one for one in found.numbers if one.name == "age")
    assert (age.edges[0], age.edges[-1]) == (0.0, 100.0)


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=8))
def test_pairs_of_parameters_hold_48_bits(values: list[float]) -> None:
    found = of_pairs(as_pairs(np.array(values)))
    np.testing.assert_allclose(found, values, rtol=2.0**-45, atol=1e-30)


def test_reconciled_counts_have_the_covariance_that_is_said() -> None:
    random, deviations = np.random.default_rng(0), (3.0, 2.0)
    truth = random.integers(0, 50, 2 * COARSE).astype(np.float64)
    drawn = np.array(
        [
            reconciled(
                truth + random.normal(0, deviations[0], truth.shape),
                truth.reshape(-1, COARSE).sum(1) + random.normal(0, deviations[1], 2),
                deviations,
            )
            for _ in range(6000)
        ]
    )
    np.testing.assert_allclose(drawn.mean(0), truth, atol=0.2)
    np.testing.assert_allclose(np.cov(drawn.T), covariance(len(truth), deviations), atol=0.6)


def test_a_quantile_of_an_exact_histogram_lies_in_the_bin_that_has_it() -> None:
    histogram = Histogram(np.arange(6.0), np.array([0, 4, 0, 4, 2.0]))
    value, low, high = histogram.quantile(0.3, 1.96)
    assert low <= value <= high and (low, high) == (1.0, 2.0)
    assert histogram.quantile(0.99, 1.96)[1:] == (4.0, 5.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"training": {"sampling_rate": 0.5}}, "training.sampling_rate must be 1"),
        ({"training": {"rounds": 4}}, "training.rounds must be 3"),
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate must be 1"),
        ({"privacy": {"clip_norm": 2.0}}, "privacy.clip_norm must be 1"),
        ({"privacy": {"metrics_epsilon": 1.0}}, "belongs to models that predict"),
        ({"model": {"bounds": {"size": {"low": 0.0, "high": 1.0}}}}, "which is no column"),
        ({"quorum": 2}, "quorum must be all silos"),
        ({"model": {"freeze": ["sums"]}}, "do not belong to statistics"),
        ({"model": {"quantiles": [0.5, 0.2]}}, "in ascending order"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    content = job(tmp_path, SHARED).model_dump(mode="json", exclude_none=True)
    for section, value in changed.items():
        content[section] = content[section] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=said):
        Job.model_validate(content)


def test_a_silo_with_a_stricter_budget_is_refused_for_it_would_count_less(tmp_path: Path) -> None:
    content = job(tmp_path, SHARED).model_dump(mode="json", exclude_none=True)
    content["silos"][0]["epsilon"] = 1.0
    with pytest.raises(ValueError, match="a silo that clips harder than the others would count"):
        Job.model_validate(content)


def test_a_run_that_ends_before_its_last_round_still_has_its_counts(tmp_path: Path) -> None:
    one, tables = job(tmp_path, SHARED), three(2000)
    describing, _ = trainers(one, tables)
    whole, vector = described(one, tables)
    found = figures_of(describing, vector, 2)
    assert whole.complete and not found.complete and found.records == whole.records
    assert found.correlations is None and all(n.differs is None for n in found.numbers)
    for early, late in zip(found.numbers, whole.numbers, strict=True):
        assert early.quantiles == late.quantiles and np.isnan(early.mean.value)
    shown = Console(width=250)
    with shown.capture() as text:
        for part in tables_of(found):
            shown.print(part)
    assert "The last round was not completed" in text.get() and "hidden" not in text.get()
    assert "What the silos hold" in as_page(found, "run-1", "epsilon 3")

"""What a forest learned from which feature: importances, and functions of features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from blindsum.pipelines.run.forest_page import as_page, explained
from blindsum.pipelines.run.step_plot import Steps, step_plot
from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer
from blindsum.platform.training.trees.importance import LeafSums
from blindsum.platform.training.trees.units import units_of
from blindsum.platform.training.trees.xgboost_json import of_job
from blindsum.platform.training.vector import Vector
from tests.platform.test_trees import (
    FEATURES,
    SHARED,
    classes,
    grown,
    job,
    outputs,
    records,
    shared_out,
)
from tests.platform.test_trees_gaps import KEPT, with_gaps

NAMES = [f"f{i}" for i in range(FEATURES)]


def told(job: Job, forest: Vector) -> Any:
    return explained(job, job.model, forest)  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [2, 3])
def test_importances_are_those_of_xgboost(kinds: int, tmp_path: Path) -> None:
    x, y = records(300, kinds)
    options = {"reg_lambda": 3.0, "gamma": 0.5}
    one = job(tmp_path, {"split": "best", **options}, classes(kinds))
    boosting, forest = grown(one, shared_out(x, y))
    found = {each.feature: each for each in told(one, forest).importances}
    bins = xgboost.DMatrix(boosting.bins.of(x).astype(np.float32), y, feature_names=NAMES)
    objective: dict[str, Any] = {"objective": "binary:logistic", "base_score": 0.5}
    if kinds > 2:
        objective = {"objective": "multi:softprob", "num_class": kinds, "base_score": 0}
    settings = {"max_depth": 3, "eta": 0.3, "tree_method": "hist", "nthread": 1}
    pooled = xgboost.train(objective | settings | options, bins, 4)
    path = tmp_path / "forest.json"
    path.write_bytes(of_job(one, boosting.section, forest))
    for booster, close in ((pooled, 1e-3), (xgboost.Booster(model_file=path), 1e-5)):
        for kind in ("weight", "gain", "total_gain", "cover"):
            scores = booster.get_score(importance_type=kind)
            own = {name: getattr(each, kind) for name, each in found.items()}
            assert own == pytest.approx(scores, rel=close), kind
    assert all(each.deviation == each.gain_of_noise == 0 for each in found.values())


@pytest.mark.parametrize("kinds", [2, 3])
@pytest.mark.parametrize("gaps", [False, True])
def test_functions_of_features_add_up_to_the_outputs(
    kinds: int, gaps: bool, tmp_path: Path
) -> None:
    x, y = with_gaps(200, kinds) if gaps else records(200, kinds)
    columns = {name: {"center": 2.0, "scale": 3.0} | more for name, more in KEPT.items()}
    model = {"split": "cyclic", "trees": 15}
    one = job(tmp_path, model, classes(kinds), SHARED, columns if gaps else None)
    boosting, forest = grown(one, shared_out(x, y))
    content = json.loads(json.dumps(told(one, forest).as_dict()))
    units = {unit.name: unit for unit in units_of(one.data.features)}
    totals: dict[str, Any] = {}
    for shape in content["shapes"]:
        column = x[:, NAMES.index(shape["feature"])].astype(np.float64)
        raw = units[shape["feature"]].center + units[shape["feature"]].scale * column
        added = np.array(shape["values"])[np.searchsorted(shape["edges"], raw, side="right")]
        if "missing" in shape:
            added = np.where(np.isnan(raw), shape["missing"]["value"], added)
        totals[shape["output"]] = totals.get(shape["output"], 0.0) + added
    found = outputs(boosting, forest, x)
    if kinds == 2:
        np.testing.assert_allclose(totals["1"], found[:, 1] - found[:, 0], atol=1e-5)
        assert set(totals) == {"1"}
    else:
        expected = np.stack([totals[str(i)] for i in range(kinds)], 1)
        np.testing.assert_allclose(expected, found, atol=1e-5)


def test_the_noise_band_is_the_deviation_between_draws_of_the_noise(tmp_path: Path) -> None:
    model = {"split": "cyclic", "trees": 2 * FEATURES, "max_depth": 2, "reg_lambda": 10.0}
    one = job(tmp_path, model, classes(2), SHARED)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    fold, random = Fold(*records(300, 2)), np.random.default_rng(1)
    trainer = TreeTrainer(boosting, one, fold, None, np.random.default_rng(0))
    optimizer, values, bands = SumsOptimizer(boosting, one), [], []
    start, training = get_parameters(model_of(one)), one.training
    for _ in range(40):
        forest = start
        for round in range(1, training.rounds + 1):
            sums = trainer.train(forest, 1.0, round).values * 2.0**-20
            sums[1::2] *= 2  # the weight of h
            sums += random.normal(0, boosting.noise, sums.size)
            mean = sums * training.learning_rate / training.expected_batch_size
            forest = optimizer.apply(forest, mean, round, 1)
        curves = told(one, forest).curves
        values.append(np.concatenate([curve.shape.values for curve in curves]))
        bands.append(np.concatenate([curve.shape.deviations for curve in curves]))
    ratio = np.std(values, axis=0, ddof=1) / np.sqrt(np.mean(np.square(bands), axis=0))
    assert ratio.mean() == pytest.approx(1.0, abs=0.1)


def test_noise_adds_to_gains_what_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    feature = np.array([[0, 1, 0, 1, 1, 0, 2], [2, 2, 1, 0, -1, 0, 1]], np.float64)
    g, h = random.normal(0, 3, (2, 8)), random.uniform(0, 5, (2, 8))
    exact = LeafSums(feature, g, h, 2.0)

    def totals(sums: LeafSums) -> np.ndarray:
        return np.bincount(feature[feature >= 0].astype(int), sums.gains[feature >= 0], minlength=4)

    drawn, said = [], []
    for _ in range(4000):
        noised = LeafSums(feature, g + random.normal(0, 2.0, g.shape), h, 2.0)
        drawn.append(totals(noised))
        said.append(noised.noise_of_gains(2.0, 4)[1] ** 2)
    mean, _ = exact.noise_of_gains(2.0, 4)
    np.testing.assert_allclose(np.mean(drawn, 0) - totals(exact), mean, atol=0.4)
    np.testing.assert_allclose(np.sqrt(np.mean(said, 0)), np.std(drawn, 0), rtol=0.1)
    assert mean[3] == 0 and exact.noise_of_gains(0.0, 4)[1].max() == 0


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    x, y = records(100, 2)
    folds = shared_out(x, y)
    chosen = job(tmp_path, {"split": "best"}, classes(2), SHARED)
    found = told(chosen, grown(chosen, folds)[1])
    assert all(one.deviation is None and one.gain for one in found.importances)
    assert not found.curves and "are therefore too large" in as_page(found, "run")
    shrunk = job(tmp_path, {"split": "random", "reg_alpha": 1.0}, classes(2))
    found = told(shrunk, grown(shrunk, folds)[1])
    assert all(one.gain is None and one.weight for one in found.importances)
    page = as_page(found, "a <run>")
    assert "not known" in page and "a &lt;run&gt;" in page and "<run>" not in page


def test_a_forest_before_its_first_tree_is_explained_by_nothing(tmp_path: Path) -> None:
    one = job(tmp_path, {"split": "cyclic"}, classes(2), SHARED)
    found = told(one, get_parameters(model_of(one)))
    assert not found.importances and not found.curves and as_page(found, "run")


def test_edges_are_in_the_columns_unit_and_dates_count_days(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "f0": {"date": {"since": "2020-01-01"}, "center": 100.0, "scale": 50.0},
        "f1": {"categories": ["a", "b"]},
        "f2": {"missing": {"value": 0.0, "indicator": True}},
    }
    one = job(tmp_path, {"split": "cyclic", "trees": 8}, classes(2), SHARED, columns)
    width = features_of(one.data.features).width
    x = np.random.default_rng(0).normal(size=(60, width)).astype(np.float32)
    found = told(one, grown(one, shared_out(x, records(60, 2)[1]))[1])
    shapes = {curve["feature"]: curve for curve in found.as_dict()["shapes"]}
    assert shapes["f0"]["days_since"] == "2020-01-01"
    assert shapes["f0"]["edges"][15] == pytest.approx(100.0, abs=1e-3)
    assert shapes["f1=a"]["edges"] == [0.5] and shapes["f2 (missing)"]["edges"] == [0.5]
    assert "days since 2020-01-01" in as_page(found, "run")


def test_a_plot_names_what_it_draws_and_shows_all_of_it() -> None:
    steps = Steps("ill", np.array([1.0, 2.0]), np.array([0.0, 4.0, -4.0]), np.ones(3), (9.0, 1.0))
    drawn = step_plot("<age>", [steps, steps], "years")
    assert "&lt;age&gt;" in drawn and "<age>" not in drawn
    assert all(one in drawn for one in ("ill", "years", "missing", "polygon", "polyline"))
    assert steps.extent.min() == -5 and steps.extent.max() == 10

"""Boosted trees of records with gaps: each split learns to which side they go, as in XGBoost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.xgboost
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import (
    build_model,
    get_parameters,
    model_of,
)
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer
from blindsum.platform.training.trees.forest import BEYOND, Forest, Trees, vector_of
from blindsum.platform.training.trees.xgboost_json import of_job
from tests.conftest import job_content
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

KEPT = {f"f{i}": {"missing": {"keep": True}} for i in (0, 1, 2, 4)}
NAMES = [f"f{i}" for i in range(FEATURES)]


def with_gaps(count: int, kinds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records of which some lack columns that may be missing: at random, and as the class says."""
    x, y = records(count, kinds, seed)
    random = np.random.default_rng(seed + 1)
    x[random.random(count) < 0.3, 0] = np.nan
    x[random.random(count) < np.where(y == y.max(), 0.7, 0.1), 1] = np.nan
    x[random.random(count) < 0.05, 2] = np.nan
    x[random.random(count) < np.where(y == 0, 0.8, 0.1), 4] = np.nan
    return x, y


@pytest.mark.parametrize("kinds", [2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"reg_lambda": 5.0, "reg_alpha": 0.5, "gamma": 1.0, "min_child_weight": 3.0}]
)
def test_trees_of_records_with_gaps_are_those_of_xgboost(
    kinds: int, options: dict[str, float], tmp_path: Path
) -> None:
    x, y = with_gaps(400, kinds)
    one = job(tmp_path, {"split": "best", "trees": 6, **options}, classes(kinds), columns=KEPT)
    boosting, forest = grown(one, shared_out(x, y))
    found = outputs(boosting, forest, x)
    trees = boosting.trees(forest)
    assert 0 < trees.default_left.mean() < 0.5 and (trees.threshold == BEYOND).any()
    bins = boosting.bins.of(x).astype(np.float32)
    bins[np.isnan(x)] = np.nan
    objective = (
        {"objective": "binary:logistic", "base_score": 0.5}
        if kinds == 2
        else {"objective": "multi:softprob", "num_class": kinds, "base_score": 0}
    )
    pooled = xgboost.train(
        objective | {"max_depth": 3, "eta": 0.3, "tree_method": "hist", "nthread": 1} | options,
        xgboost.DMatrix(bins, y),
        6,
    )
    margins = pooled.predict(xgboost.DMatrix(bins), output_margin=True)
    margins = margins.reshape(len(x), -1)
    mine = found[:, 1:] - found[:, :1] if kinds == 2 else found
    np.testing.assert_allclose(mine, margins, atol=1e-5)
    # Records with other gaps take the learned sides too.
    other = with_gaps(200, kinds, seed=7)[0]
    bins = boosting.bins.of(other).astype(np.float32)
    bins[np.isnan(other)] = np.nan
    margins = pooled.predict(xgboost.DMatrix(bins), output_margin=True).reshape(len(other), -1)
    found = outputs(boosting, forest, other)
    mine = found[:, 1:] - found[:, :1] if kinds == 2 else found
    # Between two bins without a record, XGBoost may have put another threshold.
    assert (np.abs(mine - margins).max(1) < 1e-5).mean() > 0.9


@pytest.mark.parametrize("split", ["best", "random", "cyclic"])
@pytest.mark.parametrize("kinds", [2, 3])
def test_xgboost_predicts_and_explains_records_with_gaps_the_same(
    split: str, kinds: int, tmp_path: Path
) -> None:
    x, y = with_gaps(200, kinds)
    columns = {name: one | {"center": 2.0, "scale": 3.0} for name, one in KEPT.items()}
    private = None if split == "best" else SHARED
    one = job(tmp_path, {"split": split}, classes(kinds), private, columns)
    boosting, forest = grown(one, shared_out(x, y))
    path = tmp_path / "forest.json"
    path.write_bytes(of_job(one, boosting.section, forest))
    booster = xgboost.Booster(model_file=path)
    raw = x.copy()
    raw[:, [0, 1, 2, 4]] = x[:, [0, 1, 2, 4]] * 3 + 2
    matrix = xgboost.DMatrix(raw, feature_names=NAMES)
    found = outputs(boosting, forest, x)
    expected = found[:, 1] - found[:, 0] if kinds == 2 else found
    margins = booster.predict(matrix, output_margin=True)
    np.testing.assert_allclose(margins, expected, atol=1e-6)
    explained = booster.predict(matrix, pred_contribs=True)
    np.testing.assert_allclose(explained.sum(-1), expected, atol=1e-5)


def test_mlflows_xgboost_flavour_takes_the_forest_as_it_is(tmp_path: Path) -> None:
    x, y = with_gaps(200, 2)
    one = job(tmp_path, {"split": "random"}, classes(2), SHARED, KEPT)
    boosting, forest = grown(one, shared_out(x, y))
    path = tmp_path / "forest.json"
    path.write_bytes(of_job(one, boosting.section, forest))
    booster = xgboost.Booster(model_file=path)
    # Named, so that MLflow does not look for the packages in a process of its own.
    needed = [f"xgboost=={xgboost.__version__}"]
    mlflow.xgboost.save_model(booster, tmp_path / "model", pip_requirements=needed)
    matrix = xgboost.DMatrix(x, feature_names=NAMES)
    loaded = mlflow.xgboost.load_model(str(tmp_path / "model"))
    found = outputs(boosting, forest, x)
    margins = loaded.predict(matrix, output_margin=True)
    np.testing.assert_allclose(margins, found[:, 1] - found[:, 0], atol=1e-6)
    served = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(
        pd.DataFrame(x, columns=NAMES)
    )
    chances = 1 / (1 + np.exp(found[:, 0] - found[:, 1]))
    np.testing.assert_allclose(served, chances, atol=1e-6)


@pytest.mark.parametrize("split", ["random", "cyclic"])
def test_sides_of_gaps_are_public_and_depend_on_the_seed_alone(split: str, tmp_path: Path) -> None:
    one = job(tmp_path, {"split": split}, classes(2), SHARED, KEPT)
    first, second = (grown(one, shared_out(*with_gaps(100, 2, seed)))[1] for seed in (0, 3))
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    sides = boosting.trees(first).default_left
    np.testing.assert_array_equal(sides, boosting.trees(second).default_left)
    of_kept = np.isin(boosting.trees(first).feature, [0, 1, 2, 4])
    if split == "random":
        assert 0.2 < sides[of_kept].mean() < 0.8
    else:
        assert not sides[of_kept].any()
    reseeded = Boosting(one.model_copy(update={"seed": 99}), one.model)  # type: ignore[arg-type]
    moved = reseeded.trees(reseeded.begun(np.zeros_like(first), 4))
    assert not np.array_equal(moved.default_left[3], sides[3])


def test_a_tree_of_one_feature_gives_its_gaps_a_leaf_of_their_own(tmp_path: Path) -> None:
    one = job(tmp_path, {"split": "cyclic", "trees": 1}, classes(2), SHARED, KEPT)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    forest = boosting.begun(get_parameters(model_of(one)), 1)
    trees = boosting.trees(forest)
    trees.value[0] = np.arange(8)
    x = np.full((2001, FEATURES), np.nan, np.float32)
    x[:2000, 0] = np.linspace(-5, 5, 2000)
    found = outputs(boosting, forest, x)[:, 1]
    assert found[-1] == 7 and set(found[:-1]) == set(range(7))


@settings(max_examples=30, deadline=None)
@given(
    split=st.sampled_from(["best", "random", "cyclic"]),
    gaps=st.lists(st.booleans(), min_size=FEATURES, max_size=FEATURES),
    label=st.integers(0, 2),
)
def test_no_record_with_gaps_adds_more_than_the_clip_norm(
    split: str, gaps: list[bool], label: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns = {name: {"missing": {"keep": True}} for name in NAMES}
    weighted = classes(3, class_weights={0: 50.0, 1: 50.0, 2: 50.0})
    one = job(tmp_path_factory.mktemp("job"), {"split": split}, weighted, SHARED, columns)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    fold = Fold(np.where(gaps, np.nan, 0.3).astype(np.float32)[None], np.array([label]))
    own = plan(one, one.roster[0])
    assert own is not None
    trainer = TreeTrainer(boosting, one, fold, own, np.random.default_rng(0))
    update = trainer.train(get_parameters(model_of(one)), 1.0, 1)
    assert np.linalg.norm(update.values) == pytest.approx(own.clip_norm)


def test_noise_in_the_bin_of_gaps_of_a_column_without_gaps_splits_nothing(tmp_path: Path) -> None:
    one = job(tmp_path, {"split": "best", "max_depth": 1}, classes(2), columns=KEPT)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    forest = np.array(get_parameters(model_of(one)))
    sums = np.zeros(boosting.shape(1))
    sums[..., 31, 1] = 10.0  # every record lies in each column's last bin
    sums[0, 0, 3, -1] = (500.0, 10.0)  # column 3 has no gaps
    moved = boosting.trees(boosting.moved_on(forest, sums.reshape(-1), 1))
    assert (moved.feature[0] < 0).all()
    sums[0, 0, 4, -1] = (500.0, 10.0)
    moved = boosting.trees(boosting.moved_on(forest, sums.reshape(-1), 1))
    assert moved.feature[0, 1, 0] == 4 and moved.threshold[0, 1, 0] == BEYOND


def test_a_job_without_gaps_has_the_forest_and_the_digest_that_it_had(tmp_path: Path) -> None:
    imputed = {"f0": {"missing": {"value": 0.0, "indicator": True}}}
    one = job(tmp_path, {"trees": 4, "max_depth": 3}, classes(2), columns=imputed)
    assert get_parameters(model_of(one)).size == 4 * 2 * (7 + 7 + 8 + 8)
    assert "keep" not in one.model_dump_json()
    kept = job(tmp_path, {"trees": 4, "max_depth": 3}, classes(2), columns=KEPT)
    assert get_parameters(model_of(kept)).size == 4 * 2 * (7 + 7 + 8 + 8 + 7)


def test_gaps_and_their_codes_become_missing_features(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "f0": {"center": 1.0, "scale": 2.0, "missing": {"keep": True, "codes": [-9]}},
        "f1": {"date": {"since": "2020-01-01"}, "missing": {"keep": True, "codes": ["1900-01-01"]}},
    }
    one = job(tmp_path, {}, classes(2), columns=columns)
    kind = features_of(one.data.features)
    given = {name: [0.0, 0.0, 0.0] for name in NAMES}
    given |= {"f0": [3.0, None, -9.0], "f1": ["2020-01-03", "", "1900-01-01"]}
    table = kind.uniform(pa.table(given))
    assert not any(rejected.rows.any() for rejected in kind.rejected(table))
    features = kind.compute(table).features
    np.testing.assert_array_equal(features[:, 0], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(features[:, 1], [2.0, np.nan, np.nan])
    assert Boosting(one, one.model).bins.of(features)[1, 0] == 32  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "column", "said"),
    [
        ({"kind": "linear"}, {"missing": {"keep": True}}, "keep of f0 is for model.kind trees"),
        ({}, {"missing": {"keep": True, "value": 1}}, "keep: true goes without value"),
        ({}, {"missing": {"keep": True, "indicator": True}}, "keep: true goes without value"),
        (
            {},
            {"categories": ["a", "b"], "missing": {"keep": True}},
            "missing.keep is for numbers and dates",
        ),
        ({"max_bin": 256}, {"missing": {"keep": True}}, "max_bin at most 255"),
    ],
)
def test_gaps_are_kept_for_trees_of_numbers_and_dates_only(
    model: dict[str, Any], column: dict[str, Any], said: str, tmp_path: Path
) -> None:
    content = job_content(tmp_path)
    if model.get("kind") != "linear":
        with pytest.raises(ValueError, match=said):
            job(tmp_path, model, classes(2), columns={"f0": column})
        return
    content["data"]["features"] = {"kind": "columns", "columns": {"f0": column}}
    with pytest.raises(ValueError, match=said):
        Job.model_validate(content | {"model": model})


def test_no_other_model_is_built_for_records_with_gaps(tmp_path: Path) -> None:
    one = job(tmp_path, {}, classes(2), columns=KEPT)
    other = job_content(tmp_path)
    linear = Job.model_validate(other | {"model": {"kind": "linear"}}).model
    with pytest.raises(ModelError, match="linear cannot read missing values"):
        build_model(linear, features_of(one.data.features).shape, 2, seed=0, private=False)


def test_where_records_stand_depends_on_the_sides_of_gaps() -> None:
    """What a trainer keeps of a level must not outlive another side of a split above."""
    forest = Forest(1, 1, 2, gaps=True)
    trees = Trees.of(vector_of(forest), 1, 1, 2)
    one, before = trees.one(0, 0), [trees.one(0, 0).above(level) for level in (0, 1, 2)]
    one.default_left[0] = 1
    assert [one.above(level) == before[level] for level in (0, 1, 2)] == [True, False, False]

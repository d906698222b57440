"""Boosted trees: those of XGBoost on the same bins, however many silos there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import (
    HESSIAN_WEIGHT,
    Boosting,
    TreeTrainer,
)
from blindsum.platform.training.trees.forest import Forest
from blindsum.platform.training.trees.histograms import by_bin
from blindsum.platform.training.trees.xgboost_json import as_xgboost
from blindsum.platform.training.vector import Vector
from tests.conftest import job_content

SHARED = {"noise": "shared", "epsilon": 3, "delta": 1e-4}
FEATURES = 6


def job(
    tmp_path: Path,
    model: dict[str, Any],
    labels: dict[str, Any],
    privacy: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
    **training: Any,
) -> Job:
    content = job_content(tmp_path)
    columns = {f"f{i}": {} for i in range(FEATURES)} | (columns or {})
    data = content["data"]
    data["features"] = {"kind": "columns", "columns": columns}
    data.pop("target", None)
    data.pop("tasks", None)
    section = {"kind": "trees", "trees": 4, "max_depth": 3, **model}
    levels = section["max_depth"] if section.get("split") == "best" else 1
    content["model"] = section
    content["training"] = {
        "rounds": section["trees"] * levels,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": 60,
        "learning_rate": 0.3,
        **training,
    }
    content["privacy"] = privacy or {"noise": "none"}
    content["data"] = data | labels
    return Job.model_validate(content)


def classes(count: int, **more: Any) -> dict[str, Any]:
    return {"target": {"column": "y", "classes": list(range(count)), **more}}


def records(count: int, kinds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, FEATURES)).astype(np.float32)
    score = x[:, 0] * x[:, 1] + x[:, 2] + random.normal(0, 0.3, count)
    return x, np.digitize(score, np.quantile(score, np.arange(1, kinds) / kinds)).astype(np.int64)


def grown(job: Job, folds: list[Fold], noise: bool = True) -> tuple[Boosting, Vector]:
    boosting = Boosting(job, job.model)  # type: ignore[arg-type]
    model = model_of(job)
    plans = [plan(job, name) for name in job.roster][: len(folds)]
    random = np.random.default_rng(5)
    trainers = [
        TreeTrainer(boosting, job, fold, own, np.random.default_rng(i))
        for i, (fold, own) in enumerate(zip(folds, plans, strict=False))
    ]
    optimizer, forest = SumsOptimizer(boosting, job), get_parameters(model)
    for round in range(1, job.training.rounds + 1):
        updates = [trainer.train(forest, 1.0, round) for trainer in trainers]
        total = sum(update.values for update in updates)
        if noise and plans[0]:
            total = total + random.normal(0, plans[0].share or 0.0, total.size)
        forest = optimizer.apply(forest, total * updates[0].unit / len(folds), round, len(folds))
    return boosting, forest


def outputs(boosting: Boosting, forest: Vector, x: np.ndarray) -> np.ndarray:
    section = boosting.section
    gaps = boosting.bins.have_gaps
    model = Forest(section.trees, boosting.outputs, section.max_depth, gaps)
    set_parameters(model, forest)
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def shared_out(x: np.ndarray, y: np.ndarray, silos: int = 3) -> list[Fold]:
    return [Fold(x[part], y[part]) for part in np.array_split(np.arange(len(x)), silos)]


@pytest.mark.parametrize("kinds", [2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"reg_lambda": 5.0, "reg_alpha": 0.5, "gamma": 1.0, "min_child_weight": 3.0}]
)
def test_without_privacy_the_trees_are_those_of_xgboost_on_the_pooled_records(
    kinds: int, options: dict[str, float], tmp_path: Path
) -> None:
    x, y = records(300, kinds)
    one = job(tmp_path, {"split": "best", **options}, classes(kinds))
    boosting, forest = grown(one, shared_out(x, y))
    found = outputs(boosting, forest, x)
    # XGBoost gets the bins as features, so that its histograms have the same.
    bins = boosting.bins.of(x).astype(np.float32)
    objective = (
        {"objective": "binary:logistic", "base_score": 0.5}
        if kinds == 2
        else {
            "objective": "multi:softprob",
            "num_class": kinds,
            "base_score": 0,
        }
    )
    pooled = xgboost.train(
        objective | {"max_depth": 3, "eta": 0.3, "tree_method": "hist", "nthread": 1} | options,
        xgboost.DMatrix(bins, y),
        4,
    )
    margins = pooled.predict(xgboost.DMatrix(bins), output_margin=True)
    if kinds == 2:
        np.testing.assert_allclose(found[:, 1] - found[:, 0], margins, atol=2e-5)
    else:
        np.testing.assert_allclose(found, margins, atol=2e-5)


def test_the_forest_does_not_depend_on_how_records_lie_in_silos(tmp_path: Path) -> None:
    x, y = records(200, 3)
    one = job(tmp_path, {"split": "best"}, classes(3))
    first = grown(one, shared_out(x, y))[1]
    order = np.argsort(y, kind="stable")
    second = grown(one, shared_out(x[order], y[order]))[1]
    np.testing.assert_array_equal(first, second)


def test_tasks_with_gaps_and_numbers(tmp_path: Path) -> None:
    x, y = records(240, 2)
    number = x[:, 3] * 2 + x[:, 4]
    values = np.stack([np.where(x[:, 5] > 1, np.nan, y), number], 1).astype(np.float32)
    labels = np.stack([values, np.zeros_like(values)], 1)
    tasks = {"hit": {}, "level": {"kind": "regression"}}
    one = job(tmp_path, {"split": "best", "trees": 20}, {"tasks": tasks})
    found = outputs(*grown(one, shared_out(x, labels)), x)
    known = ~np.isnan(values[:, 0])
    assert ((found[known, 0] > 0) == (y[known] == 1)).mean() > 0.95
    assert np.corrcoef(found[:, 1], number)[0, 1] > 0.95
    whole, forest = grown(one, shared_out(x, labels))
    with pytest.raises(ModelError, match="no objective for both"):
        as_xgboost(whole.trees(forest), list("abcdef"), None, one.data.tasks or {})


@pytest.mark.parametrize("split", ["best", "random", "cyclic"])
@pytest.mark.parametrize("kinds", [2, 3])
def test_xgboost_reads_the_forest_and_predicts_and_explains_the_same(
    split: str, kinds: int, tmp_path: Path
) -> None:
    x, y = records(200, kinds)
    private = None if split == "best" else SHARED
    one = job(tmp_path, {"split": split}, classes(kinds), private)
    boosting, forest = grown(one, shared_out(x, y))
    names = [f"f{i}" for i in range(FEATURES)]
    path = tmp_path / "forest.json"
    path.write_text(json.dumps(as_xgboost(boosting.trees(forest), names, one.data.target, {})))
    booster = xgboost.Booster(model_file=path)
    matrix = xgboost.DMatrix(x, feature_names=names)
    margins = booster.predict(matrix, output_margin=True)
    found = outputs(boosting, forest, x)
    expected = found[:, 1] - found[:, 0] if kinds == 2 else found
    np.testing.assert_allclose(margins, expected, atol=1e-6)
    explained = booster.predict(matrix, pred_contribs=True)
    np.testing.assert_allclose(explained.sum(-1), expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    split=st.sampled_from(["best", "random", "cyclic"]),
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=FEATURES, max_size=FEATURES),
    label=st.integers(0, 2),
    share=st.sampled_from([1.0, 0.5]),
)
def test_no_record_adds_more_than_the_clip_norm(
    split: str, row: list[float], label: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = job(
        tmp_path_factory.mktemp("job"),
        {"split": split, "colsample_bytree": share},
        classes(3, class_weights={0: 50.0}),
        SHARED,
    )
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    model = Forest(4, 3, 3)
    fold = Fold(np.array([row], np.float32), np.array([label]))
    own = plan(one, one.roster[0])
    trainer = TreeTrainer(boosting, one, fold, own, np.random.default_rng(0))
    for round in (1, min(3, one.training.rounds)):
        update = trainer.train(get_parameters(model), 1.0, round)
        assert np.linalg.norm(update.values) <= own.clip_norm * (1 + 1e-9)  # type: ignore[union-attr]


def test_public_splits_depend_on_the_seed_alone_and_cyclic_trees_use_one_feature(
    tmp_path: Path,
) -> None:
    one = job(tmp_path, {"split": "cyclic", "trees": FEATURES + 1}, classes(2), SHARED)
    x, y = records(100, 2)
    other = records(90, 2, seed=3)
    first, second = (grown(one, shared_out(*given))[1] for given in ((x, y), other))
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    a, b = boosting.trees(first), boosting.trees(second)
    np.testing.assert_array_equal(a.feature, b.feature)
    np.testing.assert_array_equal(a.threshold, b.threshold)
    assert [set(tree.ravel()) for tree in a.feature] == [{float(i % FEATURES)} for i in range(7)]
    reseeded = Boosting(one.model_copy(update={"seed": 99}), one.model)  # type: ignore[arg-type]
    moved = reseeded.trees(reseeded.begun(np.zeros_like(first), 1))
    assert not np.array_equal(moved.threshold[0], a.threshold[0])


def test_noise_on_the_sums_costs_accuracy_but_less_than_all(tmp_path: Path) -> None:
    x, y = records(3000, 2)
    one = job(
        tmp_path,
        {"split": "random", "trees": 40, "reg_lambda": 20.0},
        classes(2),
        SHARED,
        expected_batch_size=1000,
    )
    folds = shared_out(x, y)
    noised, exact = (outputs(*grown(one, folds, noise), x) for noise in (True, False))
    right = [(found.argmax(1) == y).mean() for found in (noised, exact)]
    assert 0.7 < right[0] and right[1] > 0.75 and abs(noised - exact).max() > 0.01


def test_lambda_follows_from_the_noise_unless_the_job_says_it(tmp_path: Path) -> None:
    exact = job(tmp_path, {}, classes(2))
    assert json.loads(exact.model_dump_json())["model"]["reg_lambda"] == 1.0
    private = job(tmp_path, {}, classes(2), SHARED)
    found = Boosting(private, private.model)  # type: ignore[arg-type]
    own = plan(private, private.roster[0])
    assert own is not None and own.share is not None
    assert found.noise == pytest.approx(own.share * np.sqrt(3))
    assert found.reg_lambda == pytest.approx(2 * found.noise, rel=0.05)
    local = job(tmp_path, {}, classes(2), {"noise": "local", "epsilon": 8, "delta": 1e-4})
    own = plan(local, local.roster[0])
    assert own is not None
    alone = Boosting(local, local.model, own.own_noise)  # type: ignore[arg-type]
    whole = Boosting(local, local.model)  # type: ignore[arg-type]
    assert whole.noise == pytest.approx(alone.noise * np.sqrt(3))
    said = job(tmp_path, {"reg_lambda": 0.0}, classes(2), SHARED)
    assert Boosting(said, said.model).reg_lambda == 0.0  # type: ignore[arg-type]
    # Plans of two processors may differ in the last bits: forests may not.
    noises = (10.1, 10.1 * (1 + 1e-12))
    assert len({Boosting(private, private.model, one).reg_lambda for one in noises}) == 1  # type: ignore[arg-type]


def test_what_was_learnt_is_recomputed_after_a_step_back(tmp_path: Path) -> None:
    x, y = records(60, 2)
    one = job(tmp_path, {"split": "random"}, classes(2))
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    model = Forest(4, 2, 3)
    fold = Fold(x, y)
    trainer = TreeTrainer(boosting, one, fold, None, np.random.default_rng(0))
    optimizer, start = SumsOptimizer(boosting, one), get_parameters(model)
    first = trainer.train(start, 1.0, 1)
    moved = optimizer.apply(start, first.values * first.unit, 1, 1)
    second = trainer.train(moved, 1.0, 2).values
    np.testing.assert_array_equal(trainer.train(start, 1.0, 1).values, first.values)
    fresh = TreeTrainer(boosting, one, fold, None, np.random.default_rng(0))
    np.testing.assert_array_equal(fresh.train(moved, 1.0, 2).values, second)
    assert HESSIAN_WEIGHT > 0


@pytest.mark.parametrize("sampling", [1.0, 0.5])
def test_levels_go_on_from_the_one_before_only_in_the_same_forest(
    sampling: float, tmp_path: Path
) -> None:
    """A trainer that has seen other forests sums what a fresh one does."""
    x, y = records(90, 3)
    one = job(tmp_path, {"split": "best"}, classes(3), sampling_rate=sampling)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]

    def trainer(seed: int) -> TreeTrainer:
        return TreeTrainer(boosting, one, Fold(x, y), None, np.random.default_rng(seed))

    optimizer, forest = SumsOptimizer(boosting, one), get_parameters(Forest(4, 3, 3))
    forests, used = [forest], trainer(0)
    for round in range(1, 7):
        update = trainer(round).train(forests[-1], 1.0, round)
        forests.append(optimizer.apply(forests[-1], update.values * update.unit, round, 1))
    for round in (1, 2, 3, 4, 5, 2, 3, 5, 6):
        other = forests[round - 1].copy()
        boosting.trees(other).threshold[...] += 0.5 * (round == 3)  # another root, once
        used._random = np.random.default_rng(round)
        found = used.train(other, 1.0, round).values
        np.testing.assert_array_equal(found, trainer(round).train(other, 1.0, round).values)


def test_a_smaller_clip_norm_holds_from_its_round_on(tmp_path: Path) -> None:
    x, y = records(40, 2)
    one = job(tmp_path, {"split": "best"}, classes(2), SHARED)
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    own, forest = plan(one, one.roster[0]), get_parameters(Forest(4, 2, 3))
    trainer = TreeTrainer(boosting, one, Fold(x[:1], y[:1]), own, np.random.default_rng(0))
    for clipping in (1.0, 0.25):
        norm = np.linalg.norm(trainer.train(forest, clipping, 1).values)
        assert norm <= own.clip_norm * clipping * (1 + 1e-9)  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["C", "F"])
def test_sums_by_bin_are_those_of_a_loop(order: str) -> None:
    random = np.random.default_rng(1)
    bins = np.asarray(random.integers(0, 5, (40_000, 3)), np.uint8, order=order)  # type: ignore[call-overload]
    nodes, g = random.integers(0, 3, len(bins)), np.rint(random.normal(0, 2**20, len(bins)))
    h = np.rint(random.random(len(bins)) * 2**18)
    expected = np.zeros((3, 3, 5, 2))  # the third node is that of records in none
    for feature in range(3):
        np.add.at(expected[:, feature, :, 0], (nodes, bins[:, feature]), g)
        np.add.at(expected[:, feature, :, 1], (nodes, bins[:, feature]), h)
    np.testing.assert_array_equal(by_bin(bins, nodes, 2, g, h, 5), expected[:2])
    assert not by_bin(bins[:0], nodes[:0], 2, g[:0], h[:0], 5).any()

"""Regressions from sums: the fit, its errors with and without noise, and data that have no fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blindsum.platform.data.records import Fold
from blindsum.platform.data.scaling import public_scaling
from blindsum.platform.errors import ModelError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.regression.fit import Fit
from blindsum.platform.training.regression.fitting import Regressing
from blindsum.platform.training.regression.inference import Inference, infer
from blindsum.platform.training.regression.solving import eigen, product, solve, unpacked
from blindsum.platform.training.sums import SumsOptimizer, SumsTrainer
from tests.conftest import job_content

NO_NOISE = {"noise": "none"}
CLASSES = {"target": {"column": "y", "classes": [0, 1]}}
NUMBER = {"target": {"column": "y", "center": 0, "scale": 1}}
SILOS = 3


def job(
    tmp_path: Path,
    label: dict[str, Any] = CLASSES,
    rounds: int = 12,
    privacy: dict[str, Any] = NO_NOISE,
    features: int = 2,
    columns: dict[str, Any] | None = None,
    batch: float = 100,
    **model: Any,
) -> Job:
    content = job_content(tmp_path)
    columns = columns or {f"f{i}": {} for i in range(features)}
    data = {key: one for key, one in content["data"].items() if key not in ("target", "tasks")}
    content["data"] = data | {"features": {"kind": "columns", "columns": columns}} | label
    content["model"] = {"kind": "regression", **model}
    content["training"] = {"rounds": rounds, "expected_batch_size": batch}
    content["privacy"] = privacy
    return Job.model_validate(content)


def regressing(job: Job) -> Regressing:
    return Regressing(job, job.model)  # type: ignore[arg-type]


def fold(x: np.ndarray, y: np.ndarray) -> Fold:
    """Return records; numbers as the labels of one task."""
    labels = y if y.dtype == np.int64 else np.stack([y, np.zeros_like(y)], 1)[:, :, None]
    return Fold(x.astype(np.float32), labels)


def trainers(job: Job, folds: list[Fold], seed: int) -> list[SumsTrainer]:
    summed = regressing(job)
    return [
        summed.trainer(
            SimpleNamespace(train=one),  # type: ignore[arg-type]
            plan(job, name),
            np.random.default_rng([seed, i]),
        )
        for i, (name, one) in enumerate(zip(job.roster, folds, strict=False))
    ]


def fitted(job: Job, x: np.ndarray, y: np.ndarray, seed: int = 0) -> tuple[Fit, Inference]:
    """Return the fit on records that lie in three silos, with the noise of a run."""
    folds = [fold(x[part], y[part]) for part in np.array_split(np.arange(len(x)), SILOS)]
    parts, model = trainers(job, folds, seed), get_parameters(model_of(job))
    summed, random = regressing(job), np.random.default_rng([seed, SILOS])
    optimizer, own = SumsOptimizer(summed, job), plan(job, job.roster[0])
    for round in range(1, job.training.rounds + 1):
        updates = [one.train(model, 1.0, round) for one in parts]
        total = np.sum([update.values for update in updates], 0)
        if own and own.share:
            total = total + np.sqrt(SILOS) * own.share * random.standard_normal(total.size)
        model = optimizer.apply(model, total * updates[0].unit / SILOS, round, SILOS)
    fit = Fit.of(model, summed.design.columns)
    return fit, infer(job, summed, fit)


def records(count: int, features: int, seed: int, family: str) -> tuple[np.ndarray, ...]:
    """Return features, labels, and the true coefficients."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, features)).clip(-5, 5).astype(np.float32)
    truth = np.array([-0.4, *np.linspace(0.8, -0.8, features)])
    if family == "gaussian":
        truth = truth / 2
    score = truth[0] + x @ truth[1:]
    if family == "binomial":
        return x, (random.random(count) < 1 / (1 + np.exp(-score))).astype(np.int64), truth
    return x, (score + random.normal(0, 0.7, count)).astype(np.float32), truth


@pytest.mark.parametrize(("family", "label"), [("binomial", CLASSES), ("gaussian", NUMBER)])
@pytest.mark.parametrize("noise", ["shared", "local"])
def test_intervals_cover_the_truth_although_most_of_the_error_is_noise(
    family: str, label: dict[str, Any], noise: str, tmp_path: Path
) -> None:
    private = {"noise": noise, "epsilon": 1, "delta": 1e-5}
    one = job(tmp_path, label, 8, private, batch=250)
    covered, errors = [], []
    for seed in range(60):
        x, y, truth = records(750, 2, seed, family)
        _, found = fitted(one, x, y, seed)
        rows = [row.scaled for row in found.rows if row.scaled]
        assert found.records is None and not found.notes
        covered += [row.low <= own <= row.high for row, own in zip(rows, truth, strict=True)]  # type: ignore[operator]
        errors += [row.standard_error for row in rows]
    assert 0.92 <= np.mean(covered) <= 0.995
    exact = [
        row.scaled
        for row in fitted(job(tmp_path, label, 1 + 11 * (label is CLASSES)), x, y)[1].rows
    ]
    assert np.median(errors) > 1.3 * np.median([row.standard_error for row in exact if row])  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
    label=st.floats(-1e6, 1e6, width=32),
    of_classes=st.booleans(),
    start=st.lists(st.floats(-100, 100), min_size=3, max_size=3),
)
@example(row=[2.0, 2.0], label=1.0, of_classes=True, start=[0.0, 0.0, 0.0])
@example(row=[2.0, 2.0], label=9.0, of_classes=False, start=[0.0, 0.0, 0.0])
def test_no_record_adds_more_than_the_clip_norm(
    row: list[float],
    label: float,
    of_classes: bool,
    start: list[float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    private = {"noise": "shared", "epsilon": 3, "delta": 1e-5}
    kind = CLASSES if of_classes else NUMBER
    one = job(tmp_path_factory.mktemp("job"), kind, 8, private)
    y = np.array([int(label > 0)]) if of_classes else np.array([label], np.float32)
    (part,) = trainers(one, [fold(np.array([row]), y)], 0)
    vector = get_parameters(model_of(one)).reshape(3, -1)
    vector[0, :3] = start
    update = part.train(vector.reshape(-1), 1.0, 1)
    # The upper triangle, weighed, has the norm of the whole matrix.
    assert np.linalg.norm(update.values) <= one.privacy.clip_norm * (1 + 1e-9)  # type: ignore[union-attr]


def test_how_a_record_is_weighed_down_does_not_depend_on_its_label(tmp_path: Path) -> None:
    """Else clipping would be a bias, which no interval contains."""
    one = job(tmp_path, CLASSES, 8, {"noise": "shared", "epsilon": 3, "delta": 1e-5})
    x = np.array([[4.0, -3.0]])
    vector = get_parameters(model_of(one)).reshape(3, -1)
    vector[0, :3] = [0.5, 1.0, -0.5]
    first, second = (
        trainers(one, [fold(x, np.array([label]))], 0)[0].train(vector.reshape(-1), 1.0, 1).values
        for label in (0, 1)
    )
    np.testing.assert_array_equal(first[3:], second[3:])
    summed = regressing(one)
    mean = 1 / (1 + np.exp(-(0.5 + 4.0 + 1.5)))
    factors = [values[0] / summed.weights(1)[0] for values in (first, second)]
    assert factors[0] / -mean == pytest.approx(factors[1] / (1 - mean))
    assert 0 < factors[1] / (1 - mean) < 1


def test_columns_that_depend_on_others_have_no_coefficient(tmp_path: Path) -> None:
    x, y, _ = records(200, 4, 0, "binomial")
    x[:, 2], x[:, 3] = 1.8 * x[:, 0] + 0.32, 1.0
    _, found = fitted(job(tmp_path, features=4), x, y)
    assert [row.estimate is None for row in found.rows] == [False, False, False, True, True]
    assert "combination of the columns before it" in found.rows[3].note
    _, fewer = fitted(job(tmp_path, features=2), x[:, :2], y)
    for own, other in zip(found.rows[:3], fewer.rows, strict=True):
        assert own.scaled and other.scaled and own.scaled.standard_error
        assert own.scaled.coefficient == pytest.approx(other.scaled.coefficient, rel=1e-9)
        assert own.scaled.standard_error == pytest.approx(other.scaled.standard_error, rel=1e-9)


def test_categories_have_a_reference_and_dates_their_unit(tmp_path: Path) -> None:
    columns = {
        "sex": {"categories": ["f", "m"]},
        "age": {"center": 50, "scale": 10, "missing": {"value": 50, "indicator": True}},
    }
    random = np.random.default_rng(0)
    sex = random.integers(0, 2, 300)
    age = random.normal(size=300)
    x = np.stack([1 - sex, sex, age, random.random(300) < 0.1], 1)
    y = (random.random(300) < 1 / (1 + np.exp(-age - sex))).astype(np.int64)
    _, found = fitted(job(tmp_path, columns=columns), x, y)
    names = ["(intercept)", "sex=f", "sex=m", "age", "age (missing)"]
    assert [row.name for row in found.rows] == names
    assert "reference" in found.rows[1].note and found.rows[1].estimate is None
    own = found.rows[3]
    assert own.estimate and own.scaled
    assert own.estimate.coefficient == pytest.approx(own.scaled.coefficient / 10)
    private = {"noise": "shared", "epsilon": 8, "delta": 1e-5}
    fit, noised = fitted(job(tmp_path, columns=columns, rounds=8, privacy=private), x, y)
    assert noised.rows[1].estimate is None and fit.coefficients[1] == 0


@pytest.mark.parametrize("rounds", [12, 60])
@pytest.mark.parametrize("kind", ["whole", "part", "one class"])
def test_classes_that_are_separated_are_said_to_be(kind: str, rounds: int, tmp_path: Path) -> None:
    x, y, _ = records(120, 2, 0, "binomial")
    if kind == "whole":
        y = (x[:, 0] > 0).astype(np.int64)
    elif kind == "part":
        x[:, 0] = x[:, 0] > 1
        y[x[:, 0] == 1] = 1
    else:
        y[:] = 0
    _, found = fitted(job(tmp_path, rounds=rounds), x, y)
    assert not found.converged and "separate the classes" in found.notes[0]
    named = "(intercept)" if kind == "one class" else "f0"
    assert f"that of {named}" in found.notes[0]
    assert all(row.estimate is None or row.estimate.p_value is None for row in found.rows)
    if kind == "one class":
        return
    _, mended = fitted(job(tmp_path, rounds=rounds, ridge=1.0), x, y)
    assert mended.converged and "do not contain that bias" in mended.notes[0]
    assert all(row.estimate and row.estimate.p_value is not None for row in mended.rows)


def test_few_records_few_rounds_and_labels_without_residuals_give_no_errors(tmp_path: Path) -> None:
    x, y, _ = records(200, 2, 0, "binomial")
    _, early = fitted(job(tmp_path, rounds=2), x, y)
    assert "has not converged" in early.notes[0] and early.rows[0].estimate
    _, few = fitted(job(tmp_path), x[:3], y[:3])
    assert "3 records are too few for 3 coefficients" in few.notes[0]
    exact = (1 + 2 * x[:, 0]).astype(np.float32)
    _, number = fitted(job(tmp_path, NUMBER, 1), x[:3], exact[:3])
    assert "too few" in number.notes[0] and number.dispersion is None
    x[:, 0] = np.round(x[:, 0])
    _, sure = fitted(job(tmp_path, NUMBER, 1), x, (1 + 2 * x[:, 0]).astype(np.float32))
    assert sure.notes == ["no standard errors: the columns give the label exactly"]
    for found in (early, few, number, sure):
        assert all(one.estimate is None or one.estimate.low is None for one in found.rows)


def test_noise_that_drowns_the_information_gives_no_errors(tmp_path: Path) -> None:
    x, y, _ = records(90, 2, 0, "binomial")
    private = {"noise": "shared", "epsilon": 0.5, "delta": 1e-5}
    _, found = fitted(job(tmp_path, rounds=8, privacy=private, batch=30), x, y)
    assert "as large as its smallest eigenvalue" in found.notes[0]
    assert all(row.estimate and row.estimate.standard_error is None for row in found.rows)


def test_missing_labels_add_nothing(tmp_path: Path) -> None:
    x, y, _ = records(90, 2, 0, "gaussian")
    y[::3] = np.nan
    for privacy, rounds in ((NO_NOISE, 1), ({"noise": "local", "epsilon": 9, "delta": 1e-5}, 4)):
        one = job(tmp_path, NUMBER, rounds, privacy)
        known = ~np.isnan(y)
        a, b = (
            trainers(one, [fold(x[rows], y[rows])], 0)[0].train(get_parameters(model_of(one)))
            for rows in (np.full(90, True), known)
        )
        np.testing.assert_allclose(a.values, b.values, rtol=1e-12)


def test_a_step_that_lowers_the_likelihood_is_halved_unless_a_silo_was_lost(tmp_path: Path) -> None:
    one = job(tmp_path)
    summed, before = regressing(one), get_parameters(model_of(one))

    def sums(likelihood: float, count: float) -> np.ndarray:
        found = np.zeros(summed.values(1))
        found[:3], found[3 : 3 + 6] = [2.0, 4.0, -6.0], [2.0, 0, 0, 2.0, 0, 2.0]
        found[9:11] = likelihood, count
        return found

    first = summed.moved_on(before, sums(-50, 80), 1)
    assert Fit.of(first, 3).coefficients.tolist() == [1.0, 2.0, -3.0]
    halved = Fit.of(summed.moved_on(first, sums(-60, 80), 2), 3)
    assert halved.coefficients.tolist() == [0.5, 1.0, -1.5] and halved.at.tolist() == [0, 0, 0]
    for better in (sums(-40, 80), sums(-60, 70)):
        assert Fit.of(summed.moved_on(first, better, 2), 3).coefficients.tolist() == [2, 4, -6]


@settings(max_examples=50)
@given(values=st.lists(st.floats(-1e30, 1e30), min_size=12, max_size=12))
def test_parameters_hold_every_digit_of_a_fit(values: list[float]) -> None:
    own = np.array([one if abs(one) > 1e-15 else 0.0 for one in values])
    fit = Fit(
        coefficients=own[:1],
        at=own[1:2],
        information=own[2:3],
        right=own[3:4],
        visited=own[4:5],
        **{name: own[5 + i] for i, name in enumerate(list(Fit.__annotations__)[5:12])},
        visited_squares=0.0,
    )
    assert Fit.of(fit.vector(), 1) == fit


def test_a_model_gives_logits_and_numbers(tmp_path: Path) -> None:
    import torch

    x = torch.tensor([[1.0, -2.0]])
    for label, expected in ((CLASSES, [-0.75, 0.75]), (NUMBER, [1.5])):
        model = model_of(job(tmp_path, label, 1))
        vector = get_parameters(model).reshape(3, -1)
        vector[0, :3] = [0.5, 3.0, 1.0]
        set_parameters(model, vector.reshape(-1))
        assert model(x).tolist() == [expected]


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_linear_algebra_is_that_of_numpy(size: int) -> None:
    random = np.random.default_rng(size)
    half = random.normal(size=(size, size))
    matrix, right = half @ half.T + np.eye(size), random.normal(size=size)
    found, kept = solve(matrix, right)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-9)
    assert kept.all()
    symmetric = half + half.T
    values, vectors = eigen(symmetric)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(symmetric), atol=1e-12)
    np.testing.assert_allclose((vectors * values) @ vectors.T, symmetric, atol=1e-12)
    np.testing.assert_allclose(product(half, right), half @ right, atol=1e-12)
    triangle = symmetric[np.triu_indices(size)]
    np.testing.assert_array_equal(unpacked(triangle, size), symmetric)


def test_too_many_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="201 features, but at most 200"):
        regressing(job(tmp_path, features=201))


def test_descriptors_have_their_public_constants(tmp_path: Path) -> None:
    content = job(tmp_path).model_dump()
    content["data"]["features"] = {"kind": "descriptors", "descriptors": ["MolLogP", "TPSA"]}
    design = regressing(Job.model_validate(content)).design
    assert design.names == ("(intercept)", "MolLogP", "TPSA")
    constants = public_scaling("esol-1")
    assert design.scale.tolist()[1:] == [constants[one].scale for one in design.names[1:]]


def test_a_binary_task_with_gaps_is_a_logistic_regression(tmp_path: Path) -> None:
    x, y, _ = records(90, 2, 0, "binomial")
    labels = y.astype(np.float32)
    labels[::3] = np.nan
    _, found = fitted(job(tmp_path, {"tasks": {"hit": {}}}), x, labels)
    known = ~np.isnan(labels)
    _, expected = fitted(job(tmp_path), x[known], y[known])
    assert found.records == 60 and found.family == "binomial"
    for own, other in zip(found.rows, expected.rows, strict=True):
        assert own.estimate and other.estimate
        assert own.estimate.coefficient == pytest.approx(other.estimate.coefficient, rel=1e-8)

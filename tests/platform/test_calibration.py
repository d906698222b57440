"""Probabilities that are calibrated to a user's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize

from blindsum.platform.errors import DataError, JobError
from blindsum.platform.evaluation.reliability import Reals, log_losses
from blindsum.platform.job.labels_section import Task
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.calibration import (
    LEAST_LABELS,
    Calibrated,
    calibrate,
    fitted,
    why_not,
)
from blindsum.platform.prediction.labelled import NO_LABEL, calibrated, labels_of
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import Released, read_released
from tests.conftest import COLUMNS, MakeJob, job_content
from tests.platform.test_prediction import molecules, written
from tests.platform.test_reliability import drawn


def two(logits: Reals) -> Reals:
    return np.stack([np.zeros(len(logits)), logits], 1)


# Fitting.


@pytest.mark.parametrize(("slope", "shift"), [(2.0, 0.0), (0.5, 1.0), (1.0, -3.0), (1e4, 1e5)])
def test_slope_and_offset_are_found_again(slope: float, shift: float) -> None:
    logits, true = drawn(40_000, 0, slope, shift)
    scaling, against = fitted(logits, true)
    assert scaling.slope * slope == pytest.approx(1, abs=0.05) and not against
    assert scaling(logits[:, 1]) == pytest.approx((logits[:, 1] - shift) / slope, abs=0.3)


def test_the_temperature_is_found_again() -> None:
    random = np.random.default_rng(1)
    right = random.normal(0, 2, (40_000, 4))
    true = (right + random.gumbel(size=right.shape)).argmax(1)
    scaling, _ = fitted(3 * right, true)
    assert scaling.slope == pytest.approx(1 / 3, rel=0.02) and scaling.offset == 0


@pytest.mark.parametrize("records", [50, 300])
def test_no_other_slope_and_offset_have_a_smaller_loss(records: int) -> None:
    """Another optimiser, on Platt's own formula."""
    logits, true = drawn(records, 2, 3.0, 1.0)
    positives = int(true.sum())
    negatives = records - positives
    targets = np.where(true == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Reals) -> float:
        said = parameters[0] * logits[:, 1] + parameters[1]
        return float((np.logaddexp(0, said) - targets * said).mean())

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    scaling, _ = fitted(logits, true)
    assert [scaling.slope, scaling.offset] == pytest.approx(best.x, abs=1e-5)


def test_two_classes_are_one_binary_task() -> None:
    """Only the difference of two logits counts."""
    logits, true = drawn(200, 3, 2.0, 1.0)
    moved = logits + np.random.default_rng(4).normal(0, 5, (200, 1))
    one, other = (fitted(of, true)[0] for of in (logits, moved))
    assert [one.slope, one.offset] == pytest.approx([other.slope, other.offset], rel=1e-6)
    found = one(logits.copy())
    assert found[:, 1] - found[:, 0] == pytest.approx(one(logits[:, 1]))


def test_separated_labels_give_a_finite_slope() -> None:
    logits = two(np.linspace(-1, 1, 60))
    scaling, against = fitted(logits, (logits[:, 1] > 0).astype(np.int64))
    assert 1 < scaling.slope < 1e3 and not against


def test_labels_against_the_models_order_never_turn_it_around() -> None:
    logits, true = drawn(300, 5)
    found = calibrate(logits, 1 - true)
    chances = 1 / (1 + np.exp(-found.scaling(logits[:, 1])))
    assert found.scaling.slope > 0 and found.against and "run against" in found.concern
    assert chances == pytest.approx(1 - true.mean(), abs=0.01)


REAL = st.floats(-1e5, 1e5, allow_subnormal=False)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(2, 4))
def test_probabilities_stay_probabilities_and_keep_their_order(
    data: st.DataObject, classes: int
) -> None:
    """Of any logits and any labels that are not refused."""
    count = data.draw(st.integers(LEAST_LABELS, 80))
    logits = data.draw(arrays.arrays(np.float64, (count, classes), elements=REAL))
    true = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    if why_not(logits, true):
        return
    found = calibrate(logits, true)
    assert found.scaling.slope > 0
    assert all(np.isfinite(v) for v in found.figures().values() if isinstance(v, float))
    scaled = found.scaling(logits.copy())
    if classes > 2:
        for row, after in zip(logits, scaled, strict=True):
            assert (np.diff(after[np.argsort(row)]) >= 0).all()
        return
    raw = logits[:, 1] - logits[:, 0]
    said = found.scaling(raw)
    chances = 1 / (1 + np.exp(-np.clip(said, -700, 700)))
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (np.diff(said[np.argsort(raw)]) >= 0).all()


def test_the_same_labels_give_the_same_calibration() -> None:
    logits, true = drawn(200, 6, 2.0)
    assert calibrate(logits, true) == calibrate(logits.copy(), true.copy())


# What it changes.


def test_what_calibration_changes_is_not_judged_on_what_was_fitted() -> None:
    """Of probabilities that were right, a fit to 50 labels takes their noise for a fault. On these
    labels themselves it would look like a gain."""
    honest, own = [], []
    for seed in range(25):
        logits, true = drawn(50, seed)
        honest.append(calibrate(logits, true).gain)
        scaled = two(fitted(logits, true)[0](logits[:, 1]))
        own.append((log_losses(logits, true) - log_losses(scaled, true)).mean())
    assert np.mean(own) > 0.01 and np.mean(honest) < 0


def test_a_gain_is_shown_and_the_lack_of_one_too() -> None:
    wrong = calibrate(*drawn(400, 7, 3.0, 1.0))
    assert wrong.helps and not wrong.concern and wrong.gain_interval.low > 0
    assert wrong.after.log_loss < wrong.before.log_loss and wrong.after.error < wrong.before.error
    assert wrong.before.log_loss - wrong.after.log_loss == pytest.approx(wrong.gain)
    right = calibrate(*drawn(400, 8))
    assert not right.helps and "do not show that calibration helps" in right.concern


def test_a_sorted_table_is_calibrated_as_any_other() -> None:
    logits, true = drawn(400, 9, 2.0)
    order = np.argsort(true, kind="stable")
    found = calibrate(logits[order], true[order])
    assert found.after.log_loss == pytest.approx(calibrate(logits, true).after.log_loss, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 1] * 24 + [1], "has 49 usable labels, fewer than 50"),
        ([1] * 80, "has labels of one class only"),
        ([0] * 80 + [1] * 4, "has 4 labels of its second largest class, fewer than 5"),
        ([0, 1] * 25, ""),
    ],
)
def test_too_few_labels_are_refused(labels: list[int], reason: str) -> None:
    true = np.array(labels)
    assert why_not(two(np.arange(len(true)) / 10), true) == reason


def test_a_model_that_says_the_same_of_all_records_cannot_be_calibrated() -> None:
    true = np.array([0, 1] * 40)
    assert why_not(two(np.full(80, 0.123)), true) == "has the same output for every labelled record"


# Labels.


def model(job: Job, folder: Path, own: dict[str, Task] | None = None) -> Released:
    return read_released(written(job, folder, own))


def of_tasks(tmp_path: Path, own: dict[str, Task] | None = None) -> Released:
    """A model of a number x, which predicts two binary tasks and a number."""
    content = job_content(tmp_path)
    del content["data"]["target"]
    content["data"]["features"]["columns"] = {"x": {"center": 0.0, "scale": 1.0}}
    content["data"]["tasks"] = {
        "toxic": {"positive": "yes", "negative": "no", "missing": "?"},
        "soluble": {},
        "log_s": {"kind": "regression", "center": -2.5, "scale": 2.0},
    }
    if own:
        content["silos"] = [silo | {"private_tasks": "own.yaml"} for silo in content["silos"]]
        content["model"] = {"kind": "mlp", "hidden": [4]}
    return model(Job.model_validate(content), tmp_path, own)


def labelled(count: int = 120, **columns: list[Any]) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, count)
    return pa.table({"x": x, **columns})


def calibrated_to(released: Released, table: pa.Table) -> Calibrated:
    path = Path("labelled.csv")
    labels = labels_of(table, released.terms, path)
    return calibrated(Predictor(released).outputs_of(table, path), labels, released.terms)


def test_each_task_has_its_own_calibration_and_others_stay(tmp_path: Path) -> None:
    released = of_tasks(tmp_path)
    table = labelled(toxic=["yes", "no", "?"] * 40)
    found = calibrated_to(released, table)
    assert list(found.of) == ["toxic"] and found.of["toxic"].labels == 80
    assert found.left["soluble"] == "has no column in the labelled table"
    assert found.left["log_s"].startswith("predicts a number")
    raw = Predictor(released).predict(table)
    after = Predictor(released, found.of).predict(table)
    assert [n for n in after.column_names if n not in raw.column_names] == [
        "calibrated_probability_toxic"
    ]
    for name in ("probability_soluble", "predicted_log_s", "reason"):
        assert after.column(name).equals(raw.column(name))
    before = np.array(raw.column("probability_toxic"))
    scaling = found.of["toxic"].scaling
    by_hand = 1 / (1 + np.exp(-scaling(np.log(before / (1 - before)))))
    assert np.array(after.column("calibrated_probability_toxic")) == pytest.approx(by_hand)


def test_a_silos_private_tasks_are_calibrated_too(tmp_path: Path) -> None:
    released = of_tasks(tmp_path, {"assay": Task()})
    assert list(calibrated_to(released, labelled(assay=[0, 1] * 60)).of) == ["assay"]


def test_classes_are_read_as_the_job_names_them(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job().job
    released = model(job, tmp_path)
    random = np.random.default_rng(1)
    columns = {name: random.normal(14, 5, 90) for name in COLUMNS}
    names = ["malignant", "benign", None] * 30
    table = pa.table({**columns, "diagnosis": pa.array(names).dictionary_encode()})
    labels = labels_of(table, released.terms, Path("labelled.csv"))["diagnosis"]
    assert labels.tolist() == [0, 1, NO_LABEL] * 30
    found = calibrated_to(released, table).of
    after = Predictor(released, found).predict(table)
    chances = np.array(after.column("calibrated_probability_benign"))
    likeliest = np.where(chances > 0.5, "benign", "malignant").tolist()
    assert after.column("predicted_diagnosis").to_pylist() == likeliest


def test_records_that_cannot_be_predicted_have_no_say(tmp_path: Path) -> None:
    released = of_tasks(tmp_path)
    whole = labelled(60, soluble=[0, 1] * 30)
    gaps = pa.concat_tables([whole, pa.table({"x": [np.nan] * 40, "soluble": [1] * 40})])
    assert calibrated_to(released, gaps).of == calibrated_to(released, whole).of


def test_labels_that_stand_for_nothing_are_refused_and_only_the_owner_sees_rows(
    tmp_path: Path,
) -> None:
    table = labelled(60, toxic=["yes", "no", "perhaps"] * 20)
    with pytest.raises(DataError, match=r"column 'toxic' has values other than no and yes") as info:
        calibrated_to(of_tasks(tmp_path), table)
    assert "perhaps" not in str(info.value) and "3" not in str(info.value)
    assert info.value.at_silo.startswith("rows 3, 6, 9, ") and info.value.at_silo.endswith(", ...")


def test_every_fault_of_a_labelled_table_has_one_message(tmp_path: Path) -> None:
    released = of_tasks(tmp_path)
    with pytest.raises(DataError, match="has no column of labels. It needs one of this name: toxi"):
        calibrated_to(released, labelled())
    with pytest.raises(DataError, match="'soluble' is string, expected a number"):
        calibrated_to(released, labelled(60, soluble=["a", "b"] * 30))
    few = labelled(40, soluble=[0, 1] * 20, toxic=["yes"] * 40)
    with pytest.raises(DataError, match="toxic has 40 usable labels.*; soluble has 40 usable"):
        calibrated_to(released, few)
    numbers = {"log_s": {"kind": "regression", "center": -2.5, "scale": 2.0}}
    features = {"kind": "ecfp", "smiles": "structure", "bits": 64}
    of_numbers = model(molecules(features, numbers, tmp_path), tmp_path)
    with pytest.raises(JobError, match="predicts numbers, which have no probabilities"):
        calibrated_to(of_numbers, pa.table({"structure": ["CCO"], "log_s": [1.0]}))

"""Regressions through the whole protocol: those of statsmodels on all records, and their errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.audit.outcome import QUICK, Watcher
from blindsum.pipelines.audit.run import audit
from blindsum.pipelines.comparison.baseline import member_of, trained
from blindsum.pipelines.run.check import check
from blindsum.pipelines.run.closing import show_end
from blindsum.pipelines.run.coefficients import files_of
from blindsum.pipelines.run.job_words import model_line
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from blindsum.platform.data.records import dense
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.privacy.plan import describe, plan
from blindsum.platform.training.regression.fit import Fit
from blindsum.platform.training.regression.fitting import Regressing
from blindsum.platform.training.regression.inference import infer
from blindsum.platform.training.sums import SumsOptimizer
from tests.actors.test_silo import Consortium
from tests.conftest import COLUMNS, MakeJob

MODEL, NO_NOISE = "model={kind: regression}", "privacy={noise: none}"
LOGISTIC = (NO_NOISE, MODEL, "training={rounds: 12, expected_batch_size: 100}")
NUMBER = (
    NO_NOISE,
    MODEL,
    "training={rounds: 1, expected_batch_size: 100}",
    "data.features.columns={mean_radius: {center: 14, scale: 3.5}, mean_texture: {scale: 40}}",
    "data.target={column: mean_concavity, center: 0.09, scale: 0.08}",
)
PRIVATE = (
    "privacy={noise: shared, epsilon: 3, delta: 1.0e-4}",
    MODEL,
    "training={rounds: 8, expected_batch_size: 130}",
)
"""Of two classes, of a number, and under differential privacy."""


class Exact(Consortium):
    """A consortium whose rounds sum as many values as its job's model needs."""

    def exchange(self, number: int = 1, attempt: int = 1) -> Any:
        own = next(iter(self.silos.values()))._own
        self.values = own.sent_values(number)
        return super().exchange(number, attempt)

    def fit(self) -> tuple[Regressing, Fit]:
        own = self.silos["alder"]._own
        assert isinstance(own.optimizer, SumsOptimizer)
        regressing = own.optimizer._summed
        assert isinstance(regressing, Regressing)
        return regressing, Fit.of(self.models()[0], regressing.design.columns)


def pooled(consortium: Consortium) -> tuple[np.ndarray, np.ndarray]:
    folds = [silo._own.data.train for silo in consortium.silos.values()]
    x = np.concatenate([dense(fold.stored) for fold in folds]).astype(np.float64)
    return sm.add_constant(x), np.concatenate([dense(fold.stored_labels) for fold in folds])


@pytest.mark.parametrize("settings", [LOGISTIC, NUMBER])
def test_encrypted_sums_give_the_fit_of_statsmodels_on_all_records(
    settings: tuple[str, ...], make_job: MakeJob
) -> None:
    made = Exact(make_job(*settings))
    job = made.silos["alder"]._job
    for number in range(1, job.training.rounds + 1):
        made.round(number)
    assert all(np.array_equal(made.models()[0], one) for one in made.models())
    x, y = pooled(made)
    regressing, fit = made.fit()
    found = infer(job, regressing, fit)
    scaled = [row.scaled for row in found.rows]
    values = np.array([[one.coefficient, one.standard_error, one.p_value] for one in scaled if one])
    intervals = np.array([[one.low, one.high] for one in scaled if one])
    if job.data.target:
        whole = sm.GLM(y, x, family=sm.families.Binomial()).fit(tol=1e-14, maxiter=100)
        likelihood = whole.llf
    else:
        whole = sm.OLS(y[:, 0, 0].astype(np.float64), x).fit()
        raw = 0.09 + 0.08 * y[:, 0, 0].astype(np.float64)  # the label in its own unit
        likelihood = sm.OLS(raw, x).fit().llf
    expected = np.array([whole.params, whole.bse, whole.pvalues]).T
    np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(intervals, whole.conf_int(), rtol=1e-8)
    assert found.log_likelihood == pytest.approx(likelihood, rel=1e-9)
    assert found.converged and found.records == len(x) and not found.notes


@pytest.fixture
def trained_run(make_job: MakeJob) -> Iterator[Any]:
    yield train(make_job(*LOGISTIC, "tracking.uri=null"), None, Quiet(), cluster=ThreadCluster())


def test_a_run_leaves_coefficients_by_unit_of_each_column_and_ends_when_the_fit_stands(
    trained_run: Any, tables: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_run
    assert run.status == "FINISHED" and "the fit stands" in run.ended
    assert len(run.reports) < 12
    content = json.loads((run.folder / "coefficients.json").read_text())
    assert content == run.summary()["regression"]
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["(intercept)", *COLUMNS]
    for name, constants in COLUMNS.items():
        by_unit, scaled = rows[name]["estimate"], rows[name]["scaled"]
        for one in ("coefficient", "standard_error", "low", "high"):
            assert by_unit[one] * constants["scale"] == pytest.approx(scaled[one])
        assert by_unit["p_value"] == pytest.approx(scaled["p_value"])
        assert rows[name]["odds_ratio"] == pytest.approx(np.exp(by_unit["coefficient"]))
    from blindsum.pipelines.prediction.predict import predict

    found = predict(run.folder, tables["alder"], quiet=True).table.to_pandas()
    raw = pd.read_parquet(tables["alder"])[list(COLUMNS)]
    terms = [raw[name] * rows[name]["estimate"]["coefficient"] for name in COLUMNS]
    logits = rows["(intercept)"]["estimate"]["coefficient"] + sum(terms)
    second = run.job_file.job.data.target.classes[1]
    inside = np.abs((raw - raw.mean()) / raw.std()).max(axis=1) < 3  # no value is cut
    chances = 1 / (1 + np.exp(-logits[inside]))
    np.testing.assert_allclose(found[f"probability_{second}"][inside], chances, atol=1e-5)
    table = list(csv.DictReader((run.folder / "coefficients.csv").read_text().splitlines()))
    assert [row["column"] for row in table] == list(rows)
    capsys.readouterr()
    show_end(run)
    shown = capsys.readouterr().out
    assert "odds ratio" in shown and "no differential privacy: errors are those" in shown
    assert "logistic of" in shown and "mean_texture" in shown


def test_under_privacy_the_errors_contain_the_noise_and_baselines_work(make_job: MakeJob) -> None:
    job_file = make_job(*PRIVATE)
    job = job_file.job
    made = Exact(job_file)
    for number in range(1, 9):
        made.round(number)
    regressing, fit = made.fit()
    found = infer(job, regressing, fit)
    assert found.records is None and "contain the noise" in found.errors
    own = plan(job, "alder")
    assert own is not None and own.share is not None
    assert regressing.noise == pytest.approx(own.share * np.sqrt(3), rel=1e-2)
    member = member_of(job_file, "alder")
    model = trained(job, member, own.alone(), "a", lambda: None)
    fold = member.data.train
    right = (fold.outputs(model).argmax(1).numpy() == dense(fold.stored_labels)).mean()
    assert right > 0.8
    assert "scores and information" in describe(job.privacy, "regression")["mechanism"]  # type: ignore[arg-type]
    assert list(files_of(found))


def test_the_noise_of_a_round_is_the_noise_that_errors_count(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds on the same records differ by as much as `Regressing.noise` says."""
    job_file = make_job(*PRIVATE)
    sums = []
    moved_on = Regressing.moved_on

    def look(regressing: Regressing, vector: Any, total: Any, round: int) -> Any:
        sums.append(total * regressing.weights(round))
        return moved_on(regressing, vector, total, round)

    monkeypatch.setattr(Regressing, "moved_on", look)
    for run in range(8):
        Exact(job_file, f"run-{run}").round(1)
    regressing = Regressing(job_file.job, job_file.job.model)  # type: ignore[arg-type]
    spread = np.sqrt(np.array(sums[::3]).var(0, ddof=1).mean())
    assert spread == pytest.approx(regressing.noise, rel=0.3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("training.learning_rate=0.5",), "learning_rate must be 1, or left out"),
        (("training.local_steps=2",), "training.local_steps must be 1"),
        (("training.sampling_rate=0.5",), "sampling_rate and learning_rate must be 1"),
        (("training.schedule={kind: cosine}",), "training has settings for gradients"),
        (("training.average={kind: polynomial}",), "training has settings for gradients"),
        (("server.optimizer=momentum",), "server is for gradients"),
        (("silos.alder.workers=2",), "workers and resources are for gradients"),
        (("encryption.range=1.0",), "encryption.range follows from the sums"),
        (("data.target.focal=2",), "leave no likelihood"),
        (("model={kind: regression, family: gaussian}",), "family gaussian does not fit"),
        (("model={kind: regression, label_bound: 2}",), "label_bound is for a number"),
        (("model={kind: regression, lora: {targets: [x]}}",), "do not belong to a regression"),
        ((*NUMBER[3:], "training.rounds=2"), "must be 1: without noise one exchange"),
        ((*NUMBER[3:], "training.rounds=1", "data.target.qualifier=q"), "with a qualifier"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    more: tuple[str, ...], said: str, make_job: MakeJob
) -> None:
    with pytest.raises(BlindsumError, match=said):
        make_job(*LOGISTIC, *more)


def test_all_faults_of_a_job_are_named_at_once(make_job: MakeJob) -> None:
    with pytest.raises(BlindsumError) as refused:
        make_job(
            *PRIVATE,
            "data.target={column: diagnosis, classes: [a, b, c], class_weights: {a: 2}}",
            "server.optimizer=momentum",
            "privacy.clip_quantile=0.5",
            "encryption.bits=8",
        )
    for said in ("one label", "class_weights", "server is", "clip_quantile", "bits follows"):
        assert said in str(refused.value)


def test_check_and_the_audit_say_what_a_regression_is(make_job: MakeJob) -> None:
    job_file = make_job(*LOGISTIC)
    checked = check(job_file, None)
    columns = len(COLUMNS) + 1
    sums = columns + columns * (columns + 1) // 2 + 2
    assert next(iter(checked.inspections.values())).sent == (2 * sums,)
    assert model_line(job_file.job, 1) == "logistic regression with standard errors"
    with pytest.raises(JobError, match="not yet regressions"):
        audit(job_file, "alder", QUICK, Mock(spec=Watcher))

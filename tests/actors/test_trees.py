"""Boosted trees through the whole protocol: exact sums, budgets, steps back and resumed runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from blindsum.actors.prepared import PreparedSilo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.comparison.baseline import member_of, trained
from blindsum.pipelines.run.check import check
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from blindsum.platform.data.records import dense
from blindsum.platform.errors import BlindsumError, EncryptionError
from blindsum.platform.job.file import JobFile
from blindsum.platform.privacy.plan import greatest_sum, plan
from blindsum.platform.tracking.mlflow_uri import open_client
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting
from tests.actors.test_silo import Consortium
from tests.conftest import COLUMNS, MakeJob

TRAINING = (
    "training={rounds: 6, local_steps: 1, sampling_rate: 1.0, expected_batch_size: 100, "
    "learning_rate: 0.3}"
)
EXACT = (
    "privacy={noise: none}",
    "model={kind: trees, trees: 3, max_depth: 2, split: best}",
    TRAINING,
)
PRIVATE = (
    "privacy={noise: shared, epsilon: 3, delta: 1.0e-4}",
    "model={kind: trees, trees: 6, max_depth: 2}",
    TRAINING,
)
LOCAL = ("privacy={noise: local, epsilon: 8, delta: 1.0e-4}", *PRIVATE[1:])


def rounds(consortium: Consortium, first: int = 1, last: int = 6) -> None:
    for number in range(first, last + 1):
        consortium.round(number)


def pooled(consortium: Consortium) -> tuple[np.ndarray, np.ndarray]:
    folds = [silo._own.data.train for silo in consortium.silos.values()]
    x = np.concatenate([dense(fold.stored) for fold in folds])
    return x, np.concatenate([dense(fold.stored_labels) for fold in folds])


def test_encrypted_sums_give_xgboosts_trees(make_job: MakeJob) -> None:
    made = SentByRound(make_job(*EXACT))
    rounds(made)
    own = made.silos["alder"]._own
    assert isinstance(own.optimizer, SumsOptimizer)
    boosting = own.optimizer._summed
    assert isinstance(boosting, Boosting)
    x, y = pooled(made)
    bins = boosting.bins.of(x).astype(np.float32)
    settings = {"objective": "binary:logistic", "max_depth": 2, "eta": 0.3, "tree_method": "hist"}
    matrix = xgboost.DMatrix(bins, y)
    whole = xgboost.train(settings | {"base_score": 0.5, "nthread": 1}, matrix, 3)
    import torch

    with torch.no_grad():
        found = own.model(torch.from_numpy(x)).numpy()
    expected = whole.predict(matrix, output_margin=True)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected, atol=1e-5)
    models = made.models()
    assert all(np.array_equal(models[0], one) for one in models)


class SentByRound(Consortium):
    """A consortium whose rounds sum as many values as trees need."""

    def exchange(self, number: int = 1, attempt: int = 1) -> Any:
        own = next(iter(self.silos.values()))._own
        self.values = own.sent_values(number)
        return super().exchange(number, attempt)


def test_an_attempt_that_is_undone_and_a_resumed_run_grow_the_same_trees(
    make_job: MakeJob,
) -> None:
    job_file = make_job(*EXACT)
    straight, other = SentByRound(job_file), SentByRound(job_file, "run-2")
    rounds(straight)
    rounds(other, 1, 2)
    exchange = other.exchange(3)
    total = other.sum(exchange, other.train(exchange))
    ahead = other.silos["alder"]
    ahead.apply(exchange, [], *total)
    ahead.taken()
    other.round(3, attempt=2)
    rounds(other, 4)
    np.testing.assert_array_equal(straight.models()[0], other.models()[0])


@pytest.mark.parametrize("settings", [PRIVATE, LOCAL])
def test_what_leaves_a_silo_is_noised_as_its_plan_says(
    settings: tuple[str, ...], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two silos' rounds on the same records differ by the noise of the plan, and by no less."""
    job_file = make_job(*settings)
    job = job_file.job
    changes = []
    change = PreparedSilo.mean_change

    def look(*given: Any) -> Any:
        found = change(*given)
        changes.append(found[:])
        return found

    monkeypatch.setattr(PreparedSilo, "mean_change", look)
    for run in range(12):
        made = SentByRound(job_file, f"run-{run}")
        made.round(1)
    own = plan(job, "alder")
    assert own is not None
    firsts = np.array(changes[::3])
    factor = job.training.learning_rate / job.training.expected_batch_size
    each = own.share if own.share else own.update_noise * own.clip_norm
    expected = each * factor / np.sqrt(3)
    spread = np.sqrt(firsts.var(0, ddof=1).mean())
    assert spread == pytest.approx(expected, rel=0.3)
    assert greatest_sum(job) == 100


@pytest.mark.parametrize("gaps", [False, True])
def test_a_run_leaves_a_forest_that_xgboost_reads_in_the_columns_own_units(
    gaps: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    more = ()
    if gaps:
        of = next(iter(COLUMNS))
        for path in tmp_path.glob("*.parquet"):
            read = pd.read_parquet(path)
            read.loc[::3, of] = np.nan
            read.to_parquet(path)
        more = (f"data.features.columns.{of}.missing={{keep: true}}",)
    job_file = make_job(*EXACT, *(() if gaps else ("tracking.uri=null",)), *more)
    run = train(job_file, None, Quiet(), cluster=ThreadCluster())
    assert run.status == "FINISHED" and run.saved is not None
    features = json.loads((run.folder / "features.json").read_text())
    assert {one["feature"] for one in features["importance"]} <= set(COLUMNS)
    assert features["importance"][0]["gain"] > 0 and features["run"] == run.name
    assert "Importance" in (run.folder / "features.html").read_text()
    if run.link:
        logged = open_client(run.link.uri).list_artifacts(run.link.run_id)
        kept = {"features.json", "features.html", "model.xgboost.json"}
        assert kept <= {one.path for one in logged}
    content = json.loads((run.folder / "model.xgboost.json").read_text())
    assert content["learner"]["feature_names"] == list(COLUMNS)
    from blindsum.pipelines.prediction.predict import predict

    table = tmp_path / "alder.parquet"
    found = predict(run.folder, table, quiet=True).table.to_pandas()
    assert found["outside_domain"].mean() < 0.5
    raw = pd.read_parquet(table)[list(COLUMNS)].astype(np.float32)
    booster = xgboost.Booster(model_file=str(run.folder / "model.xgboost.json"))
    chances = booster.predict(xgboost.DMatrix(raw))
    classes = job_file.job.data.target.classes  # type: ignore[union-attr]
    np.testing.assert_allclose(chances, found[f"probability_{classes[1]}"], atol=1e-5)


def test_baselines_grow_forests_too(make_job: MakeJob) -> None:
    for settings in (EXACT, PRIVATE):
        job_file: JobFile = make_job(*settings)
        member = member_of(job_file, "alder")
        own = plan(job_file.job, "alder")
        model = trained(job_file.job, member, own.alone() if own else None, "a", lambda: None)
        fold = member.data.train
        right = (fold.outputs(model).argmax(1).numpy() == dense(fold.stored_labels)).mean()
        assert right > 0.85


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("training.rounds=7", "training.rounds must be 6"),
        ("training.schedule={kind: cosine}", "training has settings for gradients"),
        ("server.optimizer=momentum", "server is for gradients"),
        ("silos.alder.workers=2", "workers and resources are for gradients"),
        ("encryption.range=1.0", "encryption.range follows from the sums"),
        ("data.target.focal=2", "focal is for gradients"),
        ("model.freeze=[feature]", "do not belong to trees"),
        ("model={kind: trees, trees: 6, max_depth: 1, gamma: 1}", "they need split: best"),
    ],
)
def test_settings_for_gradients_are_refused(more: str, said: str, make_job: MakeJob) -> None:
    with pytest.raises(BlindsumError, match=said):
        make_job(*EXACT, more)


def test_check_says_what_trees_send(make_job: MakeJob) -> None:
    checked = check(make_job(*EXACT), None)
    first = next(iter(checked.inspections.values()))
    bins = 32 * len(COLUMNS) * 2
    assert first.sent == (bins, 2 * bins) and checked.parameters.bits > 24
    assert checked.traffic.up_a_round > 0


def test_a_sum_that_would_be_cut_is_never_sent(make_job: MakeJob) -> None:
    heavy = "data.target.class_weights={malignant: 1.0e8, benign: 1.0e8}"
    made = SentByRound(make_job(*EXACT, heavy))
    silo = made.silos["alder"]
    with pytest.raises(EncryptionError, match="too large to be added exactly"):
        silo.train(made.exchange())
    assert not silo.taken()


def test_sums_of_a_large_consortium_are_applied(make_job: MakeJob) -> None:
    """Their squares would not fit into 64 bits."""
    made = SentByRound(make_job(*EXACT))
    silo, exchange = made.silos["alder"], made.exchange()
    silo.train(exchange)
    sums = np.zeros(exchange.values, np.int64)
    sums[:40] = 2**44
    assert silo._update is not None
    found = silo._own.mean_change(silo._update, [(slice(None), sums)])
    np.testing.assert_allclose(found[:], sums / 3)

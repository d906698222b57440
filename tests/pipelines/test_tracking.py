"""What MLflow has of a run, also when it cannot be written for a while."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from blindsum.platform.prediction.released import released
from blindsum.platform.tracking import mlflow_run, names
from blindsum.platform.tracking.mlflow_run import Tracker
from blindsum.platform.tracking.run_facts import dataset_of
from blindsum.platform.training.models import model_of
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's


@pytest.fixture
def impatient() -> Iterator[None]:
    """MLflow has SQLite wait twenty seconds for a lock; here it waits a fifth of one."""

    def shorter(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), parameters

    event.listen(Engine, "before_cursor_execute", shorter, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorter)


@pytest.mark.usefixtures("impatient")
def test_figures_wait_for_an_mlflow_that_is_away_and_arrive_in_order(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(make_job(), "run")
    link = tracker.ready(90)
    tracker.log_round(1, {"held_out/accuracy": 0.5})
    written, away = threading.Event(), threading.Event()
    tracker._tasks.put(written.set)
    assert written.wait(60)

    def noticed(error: Exception) -> bool:
        away.set()
        return unreachable(error)

    unreachable = mlflow_run._unreachable
    monkeypatch.setattr(mlflow_run, "_unreachable", noticed)
    other = sqlite3.connect(tmp_path / "mlflow.db")
    other.execute("BEGIN EXCLUSIVE")
    tracker.log_round(2, {"held_out/accuracy": 0.6})
    tracker.log_round(3, {"held_out/accuracy": 0.7})
    tracker._tasks.put(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert away.wait(90)
    other.rollback()
    other.close()
    failed = tracker.finish("FINISHED", "all rounds", {})
    history = tracker._client.get_metric_history(link.run_id, "held_out/accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert tracker._client.get_run(link.run_id).info.status == "FINISHED"
    assert failed is not None and "ZeroDivisionError" in failed  # what it refuses is given up


def test_what_never_arrives_is_said(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindsum.platform.tracking.mlflow_run.PATIENCE_S", 0.0)
    tracker = Tracker(make_job(), "run")
    tracker.ready(90)

    def away() -> None:
        raise ConnectionError("nobody there")

    tracker._tasks.put(away)
    failed = tracker.finish("FINISHED", "all rounds", {})
    assert failed is not None and "nobody there" in failed


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"])
def test_a_run_is_described_and_its_model_logged_beside_figures_that_are_not_numbers(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """MLflow refuses to log a model at a step that has a NaN; its file store makes folders of the
    metrics' prefixes."""
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    job_file = make_job(f"tracking.uri={store.format(tmp_path)}")
    tracker = Tracker(job_file, "run-1")
    link = tracker.ready(90)
    figures = {
        names.held_out("accuracy"): 0.5,
        names.held_out("loss"): float("nan"),
        names.EPSILON_SPENT: 1.0,
        names.epsilon_of("alder"): 1.0,
        names.RANGE: float("inf"),
    }
    tracker.log_round(1, figures)
    job = job_file.job
    tracker.log_model(released(job, "run-1", 1, model_of(job), {}), 1)
    assert tracker.finish("FINISHED", "all rounds", {}) is None
    client = mlflow.MlflowClient(tracker.uri)
    run = client.get_run(link.run_id)
    assert run.data.metrics == {
        "held_out/accuracy": 0.5,
        "privacy/epsilon_spent": 1.0,
        "privacy/epsilon/alder": 1.0,
    }
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert "null" not in run.data.params.values()
    tags = run.data.tags
    assert tags["mlflow.user"] == run.info.user_id == "ada"
    assert tags["mlflow.source.name"] == "blindsum run job.yaml"
    assert "linear model" in tags["mlflow.note.content"]
    (used,) = run.inputs.dataset_inputs
    assert used.dataset == dataset_of(job_file.job).dataset
    experiment = client.get_experiment(link.experiment_id)
    assert "alder, birch, cedar" in experiment.tags["mlflow.note.content"]
    assert experiment.name == link.experiment

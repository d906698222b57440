"""Whole runs through the pipeline, on the session's cluster, and the files they leave."""

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from matplotlib import image

from blindsum.actors.messages import TrainReport
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.thread_peer import Killed
from blindsum.he.exchange import Exchange
from blindsum.pipelines.prediction.predict import predict
from blindsum.pipelines.run.output import JsonLines, Quiet
from blindsum.pipelines.run.run import Run
from blindsum.pipelines.run.run_log import read_log
from blindsum.pipelines.run.train import _hearing, train
from blindsum.platform.errors import BlindsumError, SiloLost, TrackingError
from blindsum.platform.events import PUBLIC
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.prediction.released import read_released
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.tracking import mlflow_run
from blindsum.platform.tracking.mlflow_run import Tracker, without_password
from blindsum.platform.tracking.run_facts import flatten
from blindsum.platform.training.vector import digest
from tests.conftest import COLUMNS, MakeJob, ledger_of

# MLflow talks to its users in warnings; in these tests they are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

BLOCKING = '''
import contextlib, os, signal
import torch
from torch import nn

class Blocking(nn.Module):
    """Announces its process and waits for ever, in its training pass number {at}."""

    def __init__(self, features, outputs):
        super().__init__()
        self.layer = nn.Linear(features, outputs)
        self.passes = 0

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.passes += 1
            if self.passes == {at} and os.path.exists("{fifo}"):
                # the reader of another silo's words may leave while these are written
                with contextlib.suppress(OSError), open("{fifo}", "w") as fifo:
                    fifo.write(str(os.getpid()) + "\\n")
                signal.pause()
        return self.layer(x)
'''


def blocking_job(job_file: JobFile, folder: Path) -> tuple[JobFile, Path]:
    """The job with a model whose training stops in round 2, and the FIFO that says so.

    A silo tries a model six times before the first round, for clipped and for plain gradients of
    three batches; two steps later, round 2 begins.
    """
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    module = f"blocking_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(BLOCKING.format(at=6 + 2 + 1, fifo=fifo))
    content = yaml.safe_load(job_file.text)
    content["deadlines"] = {"round_s": 90}
    content["model"] = {"kind": "factory", "factory": f"{module}:Blocking"}
    job_file.path.write_text(yaml.safe_dump(content))
    return load_job(job_file.path), fifo


def client(run: Run) -> tuple[mlflow.MlflowClient, Any]:
    found = mlflow.MlflowClient(run.link.uri)
    return found, found.get_run(run.link.run_id)


@pytest.mark.usefixtures("cluster")
def test_a_run_leaves_model_figures_and_ledgers(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = make_job("privacy.noise_multiplier=1.5", "training.rounds=60")
    finished: list[Run] = []
    run = train(job_file, None, JsonLines(), finished.append)
    assert finished == [run] and run.status == "FINISHED" and run.tracking_failure is None

    planned = run.rounds_planned
    assert 1 <= planned < 60 and len(run.reports) == planned
    assert run.ended == (
        f"stopped after round {planned} of 60: the next round would exceed a silo's budget"
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["planned"] + ["round"] * planned
    (unenforced,) = lines[0]["warnings"]
    assert "not enforced at alder, birch, cedar: no owner's file there" in unenforced

    for name in job_file.job.roster:
        entries = ledger_of(tmp_path / "state" / name, name).entries()
        assert [e.kind for e in entries] == ["reserve"] + ["charge"] * planned
        assert [(e.round, e.attempt) for e in entries[1:]] == [(n + 1, 1) for n in range(planned)]
        assert [e.epsilon for e in entries[1:]] == [r.epsilon[name] for r in run.reports]
        assert entries[-1].epsilon <= 3
    assert [r.attempt for r in run.reports] == [1] * planned and run.standing.retries == 0
    first, phases = run.reports[0], run.reports[0].phases
    assert 3 * 3_373 < first.up_bytes < 3 * 5_000 and 3 * 28_000 < first.down_bytes < 3 * 30_000
    assert set(phases) == {"charge", "train", "send", "add", "total", "decrypt", "apply"}
    assert all(seconds >= 0 for seconds in phases.values())

    state = read_released(run.saved.path).model.state_dict()
    weights = torch.cat([state["weight"].reshape(-1), state["bias"]]).numpy()
    assert digest(weights) == run.reports[-1].model_digest
    newest = read_released(run.folder / "model-newest.blindsum")
    assert newest.terms.average == "the newest model, no average"
    state = newest.model.state_dict()
    last = torch.cat([state["weight"].reshape(-1), state["bias"]]).numpy()
    assert digest(last, weights) == run.reports[-1].state_digest != digest(weights, weights)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["status"] == "FINISHED" and summary["rounds"] == planned
    said = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [one["event"] for one in said] == ["planned"] + ["round"] * planned + ["ended"]
    assert {(one["job"], one["run"]) for one in said} == {("trial", run.name)}
    assert all(one.keys() <= PUBLIC for one in said)
    _check_tracking(run, job_file)


def _check_tracking(run: Run, job_file: JobFile) -> None:
    found, logged = client(run)
    assert run.link.uri == f"sqlite:///{job_file.folder}/mlflow.db"
    assert logged.info.status == "FINISHED"
    params = logged.data.params
    assert params["privacy.epsilon"] == "3.0" and params["training.local_steps"] == "2"
    assert params["silos.alder.data"] == "alder.parquet"
    tags = logged.data.tags
    assert tags["blindsum.roster"] == "alder, birch, cedar" and tags["epsilon"] == "3"
    assert "not differentially private" in tags["blindsum.metrics_guarantee"]
    assert tags["privacy.accountant"].startswith("PLD") and tags["blindsum.version"]
    for name, expected in (
        ("held_out/accuracy", [r.metrics.held_out.accuracy for r in run.reports]),
        ("privacy/epsilon/birch", [r.epsilon["birch"] for r in run.reports]),
        ("privacy/epsilon_left", [3 - max(r.epsilon.values()) for r in run.reports]),
        ("system/bytes_up", [r.up_bytes for r in run.reports]),
        ("system/seconds_send", [r.phases["send"] for r in run.reports]),
    ):
        history = sorted(found.get_metric_history(run.link.run_id, name), key=lambda m: m.step)
        assert [m.step for m in history] == list(range(1, len(run.reports) + 1))
        np.testing.assert_allclose([m.value for m in history], expected, rtol=1e-9)
    artifacts = {a.path for a in found.list_artifacts(run.link.run_id)}
    statement = {"privacy-statement.json", "privacy-statement.html"}
    assert {"job.yaml", "accuracy_and_epsilon.png"} | statement <= artifacts
    stated = json.loads((run.folder / "privacy-statement.json").read_text())
    for name, epsilon in run.epsilon().items():
        assert stated["Privacy parameters"][name]["epsilon spent"] == pytest.approx(
            epsilon, abs=1e-6
        )
        assert logged.data.tags[f"blindsum.ledger.{name}"].startswith(f"{len(run.reports) + 1}:")
        _check_fingerprint(ledger_of(job_file.folder / "state" / name, name), job_file.folder)
    assert image.imread(run.folder / "accuracy_and_epsilon.png").std() > 0.05
    mlflow.set_tracking_uri(run.link.uri)
    (model,) = found.search_logged_models([logged.info.experiment_id])
    signature = mlflow.models.get_model_info(model.model_uri).signature
    assert signature.inputs.input_names() == list(COLUMNS)
    restored = mlflow.pyfunc.load_model(model.model_uri)
    # A process that this one starts later would import the model's copy, which can only predict.
    first = next(one for one in sys.path if Path(one, "blindsum", "__init__.py").exists())
    assert Path(first, "blindsum", "pipelines").exists()
    records = pq.read_table(job_file.folder / "alder.parquet").to_pandas()
    here = predict(run.folder, job_file.folder / "alder.parquet", quiet=True).table
    served = restored.predict(records[list(COLUMNS)].astype(float))
    assert served["predicted_diagnosis"].tolist() == here["predicted_diagnosis"].to_pylist()


def _check_fingerprint(ledger: Ledger, folder: Path) -> None:
    """A table's fingerprint would let anyone who reads MLflow confirm a guess about its records."""
    (fingerprint,) = {entry.dataset for entry in ledger.entries()}
    assert len(fingerprint) == 64
    for path in [folder / "mlflow.db", *(folder / "mlartifacts").rglob("*")]:
        assert not path.is_file() or fingerprint.encode() not in path.read_bytes(), path.name


class DyingSilo(Silo):
    """A silo named birch that dies in its second round, once it is charged."""

    def train(self, exchange: Exchange, *opened: object) -> TrainReport:
        report = super().train(exchange, *opened)
        if self.name == "birch" and exchange.round == 2:
            raise Killed
        return report


def test_a_lost_silo_ends_the_run_with_its_last_model(make_job: MakeJob, tmp_path: Path) -> None:
    finished: list[Run] = []
    with pytest.raises(SiloLost, match="silo 'birch', round 2: its process died"):
        train(make_job(), None, Quiet(), finished.append, cluster=ThreadCluster(DyingSilo))
    (run,) = finished
    assert run.status == "FAILED" and run.saved.round == 1 and "round 2" in run.ended
    assert run.saved.path.exists()
    # The round that did not end was charged: no figure of spend may leave it out.
    assert run.announced == 2
    for name, epsilon in run.epsilon().items():
        entries = ledger_of(tmp_path / "state" / name, name).entries()
        assert [e.round for e in entries] in ([0, 1, 2], [0, 1])
        assert epsilon >= entries[-1].epsilon * (1 - 1e-9)
    assert max(run.epsilon().values()) > run.reports[-1].epsilon["alder"]
    _, logged = client(run)
    assert logged.info.status == "FAILED" and "round 2" in logged.data.tags["blindsum.ended"]


def test_a_folder_without_room_fails_the_run_and_mlflow_keeps_the_model(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> Path:
        raise OSError(errno.ENOSPC, "")

    job_file = make_job("training.rounds=1")
    monkeypatch.setattr("blindsum.pipelines.run.save.write_whole", full)
    finished: list[Run] = []
    with pytest.raises(BlindsumError, match="No space left on device. Make room"):
        train(job_file, None, Quiet(), finished.append, cluster=ThreadCluster())
    found, logged = client(finished[0])
    assert logged.info.status == "FAILED" and "No space left" in logged.data.tags["blindsum.ended"]
    assert len(found.search_logged_models([logged.info.experiment_id])) == 1
    monkeypatch.undo()  # there is room again: nothing is trained or charged for saving
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "home"))
    kept = read_log(finished[0].folder)
    ended = train(job_file, None, Quiet(), kept=kept, cluster=ThreadCluster())
    assert ended.status == "FINISHED" and ended.saved.path.exists()
    entries = ledger_of(tmp_path / "state" / "alder", "alder").entries()
    assert [e.kind for e in entries] == ["reserve", "charge"]


def test_an_unreachable_tracking_server_is_refused(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # each would wait longer
    tracker = Tracker(make_job("tracking.uri=http://127.0.0.1:1"), "run")
    with pytest.raises(TrackingError, match="Check tracking.uri"):
        tracker.ready(120)
    tracker.finish("FAILED", "", {})


def test_a_database_that_cannot_be_made_is_refused(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run.time, "sleep", lambda _: None)  # between its attempts
    tracker = Tracker(make_job(f"tracking.uri=sqlite:///{tmp_path}/job.yaml/x.db"), "run")
    with pytest.raises(TrackingError, match="cannot be used"):
        tracker.ready(60)
    tracker.finish("FAILED", "", {})


def test_settings_become_flat_parameters() -> None:
    nested = {"a": {"b": 1, "c": None}, "list": [1, 2], "silos": [{"name": "x", "data": "d"}]}
    assert flatten(nested) == {"a.b": "1", "list": "[1, 2]", "silos.x.data": "d"}


def test_a_password_in_the_tracking_uri_is_not_shown() -> None:
    shown = without_password("http://ada:secret@127.0.0.1:5000/path")
    assert shown == "http://127.0.0.1:5000/path"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_an_interrupt_that_falls_into_a_destructor_is_heard_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python cannot raise it there, and would print a traceback instead of the run's summary."""
    printed: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(what.exc_type))

    class Falls:
        def __init__(self, error: type[BaseException]) -> None:
            self.error = error

        def __del__(self) -> None:
            if self.error is KeyboardInterrupt:
                signal.raise_signal(signal.SIGTERM)
            raise self.error

    heard = threading.Event()
    with _hearing(heard):
        Falls(KeyboardInterrupt)
        assert heard.is_set() and printed == []
        Falls(ValueError)
        assert printed == [ValueError]

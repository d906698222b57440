"""`blindsum.simulate`: whole runs over data frames, in this process, and how they end."""

from __future__ import annotations

import json
import math
import signal
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml

import blindsum
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.interface import simulation, training
from blindsum.pipelines.run import output
from blindsum.platform.errors import (
    ConsentError,
    DataError,
    JobError,
    SiloLost,
    Unexpected,
)
from blindsum.platform.job.owner import Owner, OwnerFile
from tests.conftest import SILOS, MakeJob, ledger_of
from tests.pipelines.test_train import DyingSilo

# MLflow talks to its users in warnings; in these tests they are not ours to mend.
Frames = dict[str, pd.DataFrame]
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_simulation_is_a_whole_run_and_leaves_nothing(
    job: blindsum.Job,
    frames: Frames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    modes: list[int] = []
    write = simulation._write

    def writing(silo: str, records: Any, path: Path) -> None:
        write(silo, records, path)
        modes.extend(stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path.parents[1]))

    monkeypatch.setattr(simulation, "_write", writing)
    threads = threading.active_count()
    run = blindsum.simulate(job, frames)
    assert set(modes) == {0o700} and len(modes) == 6
    assert list((tmp_path / "tmp").glob("blindsum-simulation-*")) == [] and run.folder is None
    assert not (tmp_path / "state").exists()  # which the job names
    assert not (tmp_path / "home" / "silos").exists() and not (tmp_path / "mlflow.db").exists()
    assert threading.active_count() <= threads
    shown = capsys.readouterr()
    assert shown.out == "" and "owners' consent" not in shown.err

    assert run.status == "FINISHED" and run.ended is None and run.rounds == 3
    history = run.history
    assert list(history.index) == [1, 2, 3] and history.index.name == "round"
    assert (history["accuracy_low"] <= history["accuracy"]).all()
    assert (history["accuracy"] <= history["accuracy_high"]).all()
    assert history["epsilon"].is_monotonic_increasing and (history["seconds"] > 0).all()
    assert run.epsilon == {s: history[f"epsilon_{s}"].iloc[-1] for s in SILOS}
    assert max(run.epsilon.values()) == history["epsilon"].iloc[-1] <= 3
    assert run.summary["rounds"] == 3 and run.summary["model"] is None
    json.dumps(run.summary)
    assert "accuracy" in repr(run) and "finished, 3 rounds" in repr(run)


def test_a_run_ends_when_its_figures_no_longer_improve(job: blindsum.Job, frames: Frames) -> None:
    """No figure improves by more than 1. What further rounds would have cost is not charged."""
    patient = job.override("training.rounds=6", "training.stop={patience: 1, least: 1.0}")
    run = blindsum.simulate(patient, frames, progress=False)
    assert run.status == "FINISHED" and run.rounds == 3
    assert "stopped after round 3 of 6" in str(run.ended)
    assert max(run.epsilon.values()) < 2.5


def test_a_simulation_in_a_folder_can_be_opened_and_its_ledgers_are_its_own(
    job: blindsum.Job, frames: Frames, tmp_path: Path
) -> None:
    folder = tmp_path / "simulations"
    job = job.override("tracking.uri=http://127.0.0.1:1", f"silos.alder.identity='{'a' * 64}'")
    run = blindsum.simulate(job, frames, folder=folder, progress=False)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert run.folder == folder / "runs" / run.name and (folder / "mlflow.db").exists()
    opened = blindsum.Run.open(str(run.folder))
    pd.testing.assert_frame_equal(opened.history, run.history)
    assert opened.status == "FINISHED" and opened.epsilon == run.epsilon
    assert repr(opened) == repr(run) and opened.job == run.job
    tables = {name: pa.Table.from_pandas(frame) for name, frame in frames.items()}
    other = blindsum.simulate(job, tables, folder=folder, progress=False)
    assert other.status == "FINISHED" and other.folder != run.folder
    states = list(folder.glob("trial-*/state/alder"))
    assert len(states) == 2 and not (tmp_path / "state").exists()
    for state in states:
        assert stat.S_IMODE(state.parents[1].stat().st_mode) == 0o700
        entries = ledger_of(state, "alder").entries()
        assert [e.kind for e in entries] == ["reserve"] + ["charge"] * 3
    with pytest.raises(JobError, match="already completed"):
        blindsum.resume(str(run.folder))


@pytest.mark.usefixtures("cluster")
def test_a_simulation_computes_what_a_run_on_ray_computes(
    make_job: MakeJob, frames: Frames, tmp_path: Path
) -> None:
    file = make_job("privacy.test_seed=7", "training.rounds=2")
    file.path.write_text(file.text)
    run = blindsum.run(file.path, progress=False)
    simulated = blindsum.simulate(file.path, frames, progress=False)
    assert run.folder is not None and run.folder.parent == tmp_path / "runs"
    assert run.summary["model_digest"] == simulated.summary["model_digest"]
    figures = [c for c in run.history if "seconds" not in c and "bytes" not in c]
    pd.testing.assert_frame_equal(run.history[figures], simulated.history[figures])
    assert set(run.epsilon.values()) == {math.inf}  # noise from a known seed protects nobody
    assert "unbounded" in repr(run)


def test_no_simulation_runs_on_a_silo_s_machine(
    job: blindsum.Job, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "owner" / "silo.yaml"
    place.parent.mkdir(mode=0o700)
    file = {"names": ["alder"], "state": str(tmp_path / "real"), "datasets": {"d": {"path": "/d"}}}
    place.write_text(yaml.safe_dump(OwnerFile.model_validate(file).model_dump()))
    place.chmod(0o600)
    with pytest.raises(ConsentError, match="this machine is a silo's, by .*silo.yaml"):
        blindsum.simulate(job, frames)
    assert isinstance(simulation.find_owner(), Owner) and not (tmp_path / "real").exists()


def test_data_that_does_not_fit_is_refused(
    job: blindsum.Job, frames: Frames, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"data has no records for silo 'cedar'. .*alder, birch"):
        blindsum.simulate(job, {s: frames[s] for s in ("alder", "birch")})
    with pytest.raises(DataError, match="the job has no silo 'oak'"):
        blindsum.simulate(job, {**frames, "oak": frames["alder"]})
    with pytest.raises(DataError, match="silo 'birch': a dict is not a table"):
        blindsum.simulate(job, {**frames, "birch": {}})  # type: ignore[dict-item]
    mixed = frames["birch"].assign(remark=["text", 3.5] * 75).astype({"remark": object})
    with pytest.raises(DataError, match="silo 'birch': a column mixes types"):
        blindsum.simulate(job, {**frames, "birch": mixed})
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="cannot be made: File exists"):
        blindsum.simulate(job, frames, folder=tmp_path / "file")


def test_what_only_an_owner_is_told_is_a_note_of_the_error(
    job: blindsum.Job, frames: Frames
) -> None:
    cedar, alder = frames["cedar"].assign(diagnosis="ZQXJK"), frames["alder"]
    alder = alder.assign(mean_radius="ZQXJR")
    with pytest.raises(blindsum.BlindsumError) as caught:
        blindsum.simulate(job, {**frames, "alder": alder, "cedar": cedar}, progress=False)
    assert "ZQXJ" not in str(caught.value)
    of_alder, of_cedar = caught.value.__notes__
    assert of_alder.startswith("at alder: ") and "row 1 has 'ZQXJR'" in of_alder
    assert of_cedar.startswith("at cedar: rejected_rows.csv:\nrow,column,reason,value\n1,diagnosis")
    assert len(of_cedar.splitlines()) == 13 and of_cedar.endswith("\n...")


# Ends.


def interrupting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(output.Quiet):
        def round(self, run: Any, report: Any) -> None:
            if report.round == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(simulation, "listener", lambda progress, job: Interrupting())


def test_an_interrupt_keeps_what_is_finished(
    job: blindsum.Job, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        blindsum.simulate(job, frames, folder=tmp_path / "kept")
    (folder,) = (tmp_path / "kept" / "runs").iterdir()
    run = blindsum.Run.open(folder)
    assert run.status == "KILLED" and run.rounds == 2 and run.ended == "interrupted"
    assert run.model.round == 2 and "ended by Ctrl-C" in run._repr_html_()


def test_in_a_notebook_an_interrupted_run_is_returned(
    job: blindsum.Job, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch)
    monkeypatch.setattr(training, "in_notebook", lambda: True)
    run = blindsum.simulate(job, frames)
    assert run.status == "KILLED" and run.rounds == 2 and run.folder is None
    assert len(run.model.predict(frames["alder"])) == 150


def test_a_failure_says_where_its_finished_rounds_lie(
    job: blindsum.Job, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "blindsum.actors.thread_cluster.ThreadCluster", lambda: ThreadCluster(DyingSilo)
    )
    with pytest.raises(SiloLost, match="silo 'birch', round 2") as caught:
        blindsum.simulate(job, frames, folder=tmp_path / "kept", progress=False)
    (folder,) = (tmp_path / "kept" / "runs").iterdir()
    assert caught.value.__notes__ == [
        f"1 completed rounds are kept: blindsum.Run.open({str(folder)!r})"
    ]
    assert blindsum.Run.open(folder).status == "FAILED"


def test_an_unforeseen_error_has_none_of_its_values(
    job: blindsum.Job, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> ThreadCluster:
        cluster = ThreadCluster()
        monkeypatch.setattr(cluster, "start_silos", lambda specs: int("ZQXJK"))
        return cluster

    monkeypatch.setattr("blindsum.actors.thread_cluster.ThreadCluster", failing)
    with pytest.raises(Unexpected) as caught:
        blindsum.simulate(job, frames, progress=False)
    assert "ZQXJK" not in str(caught.value) and caught.value.__suppress_context__

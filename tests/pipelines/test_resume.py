"""Resumed runs reach the model of an uninterrupted run, or the same accounting."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from blindsum.actors.messages import SiloSpec
from blindsum.actors.round_report import RoundReport
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.thread_peer import ThreadPeer
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.run import Run
from blindsum.pipelines.run.run_log import NAME, RunLog, read_log
from blindsum.pipelines.run.train import train
from blindsum.platform.errors import BlindsumError, JobError, SiloLost
from blindsum.platform.job.file import JobFile
from blindsum.platform.prediction.released import read_released
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's

NO_NOISE = (
    "privacy={noise: none}",
    "training.rounds=5",
    "training.local_steps=1",
    "server={optimizer: momentum, learning_rate: 0.5}",
    "encryption.adapt_range=true",
    "encryption.range=64",
)


class KillingSilo(Quiet):
    """Ends one silo when a round has ended, among those that this cluster started."""

    def __init__(self, cluster: ThreadCluster, after: int) -> None:
        self._cluster, self._after = cluster, after
        real = cluster.start_silos

        def start_silos(specs: Mapping[str, SiloSpec]) -> dict[str, ThreadPeer]:
            self._peers = real(specs)
            return self._peers

        cluster.start_silos = start_silos  # type: ignore[method-assign]

    def completed(self, run: Run, report: RoundReport) -> None:
        if report.round == self._after:
            self._cluster.kill(self._peers["birch"])


def interrupted(job_file: JobFile, after: int) -> Run:
    seen: list[Run] = []
    cluster = ThreadCluster()
    with pytest.raises(SiloLost, match=f"round {after + 1}: its process died"):
        train(job_file, None, KillingSilo(cluster, after), seen.append, cluster=cluster)
    return seen[0]


def test_without_noise_a_continued_run_ends_with_the_very_model(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Model, momentum, random numbers, range: all go on where they were, in the same MLflow run."""
    job_file = make_job(*NO_NOISE)
    whole = train(job_file, None, Quiet(), cluster=ThreadCluster())
    broken = interrupted(job_file, after=3)
    assert broken.status == "FAILED" and len(broken.reports) == 3
    kept_by_silos = tmp_path / "state" / "alder" / "runs" / broken.name
    assert len(list(kept_by_silos.iterdir())) == 2
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in kept_by_silos.iterdir())
    kept = read_log(broken.folder)
    assert kept.standing.round == 3 and kept.standing.range != 64
    assert kept.reports == [replace(report, before=None) for report in broken.reports]
    ended = train(kept.job_file, None, Quiet(), kept=kept, cluster=ThreadCluster())
    assert ended.status == "FINISHED" and ended.name == broken.name
    assert [r.model_digest for r in ended.reports] == [r.model_digest for r in whole.reports]
    assert [r.range for r in ended.reports] == [r.range for r in whole.reports]
    assert ended.saved and whole.saved
    models = [read_released(one.saved.path).terms.weights for one in (ended, whole)]
    assert models[0] == models[1], "the digests of the weights"
    assert ended.link == broken.link and not kept_by_silos.exists()
    client = mlflow.MlflowClient(ended.link.uri)
    assert client.get_run(ended.link.run_id).info.status == "FINISHED"
    for name in ("held_out/accuracy", "system/seconds_round"):
        steps = [m.step for m in client.get_metric_history(ended.link.run_id, name)]
        assert sorted(steps) == [1, 2, 3, 4, 5]
    summary = json.loads((ended.folder / "summary.json").read_text())
    assert summary["rounds"] == 5 and summary["status"] == "FINISHED"


def test_a_log_is_whole_lines_and_one_process_has_it(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job()
    folder = tmp_path / "runs" / "one"
    log = RunLog(folder, "one", job_file)
    log.open("mlflow-1")
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600
    with pytest.raises(BlindsumError, match="another process is running one"):
        RunLog(folder, "one", job_file).open("mlflow-1")
    with pytest.raises(BlindsumError, match="another process is running one"):
        train(job_file, None, Quiet(), kept=read_log(folder))  # before MLflow or a silo is touched
    assert not (tmp_path / "mlflow.db").exists()
    log.close()
    with (folder / NAME).open("a") as file:
        file.write('{"report": {"rou')  # as a crash cuts it
    again = RunLog(folder, "one", job_file)
    again.open("mlflow-1")
    again.close()
    kept = read_log(folder)
    assert kept.name == "one" and kept.mlflow_run == "mlflow-1" and kept.reports == []
    assert kept.job_file.job == job_file.job and kept.job_file.folder == job_file.folder
    again.open("mlflow-1")
    again.end()
    again.close()
    found = CliRunner().invoke(app, ["resume", str(folder)])
    assert found.exit_code == 1 and "one has already completed" in str(found.exception)
    with pytest.raises(JobError, match="there is no run to resume"):
        read_log(tmp_path)
    (folder / NAME).write_text("nonsense\n")
    with pytest.raises(JobError, match="cannot be read"):
        read_log(folder)

"""What goes to a cluster, and what a person is told who cannot reach one."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from blindsum.infra.submission import Cluster, _folder, refusal, require_portable
from blindsum.infra.wheel import digest_of, make_wheel, requirements
from blindsum.pipelines.cli import app
from blindsum.pipelines.run_log import RunLog, read_log
from blindsum.platform.errors import ClusterError, JobError
from blindsum.platform.paths import results_folder
from tests.conftest import MakeJob

FACTORY = (
    "import torch\n\ndef make(features, outputs):\n    return torch.nn.Linear(features, outputs)\n"
)


def test_the_wheel_is_this_code_needs_nothing_and_is_named_by_its_content(tmp_path: Path) -> None:
    """Ray fetches a wheel that it knows by name from its cache, whatever is in it."""
    first, second = make_wheel(tmp_path / "a"), make_wheel(tmp_path / "b")
    assert first.name == second.name and "+" in first.name
    for content in ("one", "another"):
        (tmp_path / content).mkdir()
        (tmp_path / content / "a.py").write_text(content)
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "another")
    with zipfile.ZipFile(first) as archive:
        archive.extractall(tmp_path / "whole")
    for info in (tmp_path / "whole").glob("*.dist-info"):
        shutil.rmtree(info)
    assert f"+{digest_of(tmp_path / 'whole')}-" in first.name
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if n.endswith("METADATA"))
        assert "Requires-Dist" not in archive.read(metadata).decode()
        assert {"blindsum/platform/job.py", "blindsum/pipelines/starter.yaml"} <= set(names)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, first],
        check=True, capture_output=True,
    )  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", "import blindsum.infra.wheel as w; print(w.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(target)},
    )  # fmt: skip
    assert found.stdout.startswith(str(target))


def test_the_command_writes_what_plain_job_submission_takes(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["job", "wheel", str(tmp_path)])
    assert done.exit_code == 0
    environment = json.loads(done.stdout.splitlines()[-1])
    assert environment["py_modules"] == [str(next(tmp_path.glob("*.whl")))]
    assert Path(environment["pip"]).read_text().splitlines() == requirements()


def test_what_is_needed_is_pinned_as_it_is_here() -> None:
    pins = requirements()
    named = {Requirement(pin).name: Requirement(pin) for pin in pins}
    assert len(named) == len(pins) and {"torch", "tenseal", "mlflow", "opacus", "numpy"} <= set(
        named
    )
    assert "ray" not in named and "pytest" not in named  # a node's Ray is the cluster's
    assert all("==" in pin and "+" not in pin and "@" not in pin for pin in pins)


def test_a_job_travels_without_tables_unless_it_is_a_simulation(
    make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = tmp_path_factory.mktemp("sent")
    job_file = make_job("privacy={noise: none}", "model={kind: factory, factory: own:make}")
    (job_file.folder / "own.py").write_text(FACTORY)
    sent = _folder(job_file, made / "without", whole=False)
    assert sorted(p.name for p in sent.iterdir()) == ["job.yaml", "own.py"]
    assert (sent / "job.yaml").read_text() == job_file.text
    whole = _folder(job_file, made / "with", whole=True)
    assert {"job.yaml", "own.py", "alder.parquet"} <= {p.name for p in whole.iterdir()}


def test_paths_that_mean_nothing_elsewhere_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match="silos.alder.data, silos.birch.data, silos.cedar.data"):
        require_portable(make_job().job)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Request failed with status code 401: Unauthorized", "refuses this token"),
        ("Request failed with status code 403: Forbidden", "refuses this token"),
        ("Request failed with status code 404: Job x does not exist", "knows no such job"),
        ("Request failed with status code 500: trial-20260401-404403 is there", "-404403 is there"),
        ("", "no reason given"),
    ],
)
def test_answers_of_the_job_server_are_read_by_their_status(text: str, said: str) -> None:
    assert said in str(refusal("http://head:8265", text))


def test_a_submitted_jobs_results_outlive_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert results_folder(tmp_path) == tmp_path
    monkeypatch.setenv("BLINDSUM_SUBMITTED", "1")
    assert results_folder(tmp_path) == tmp_path / "home"  # BLINDSUM_HOME
    monkeypatch.setenv("BLINDSUM_RESULTS", str(tmp_path / "results"))
    assert results_folder(tmp_path) == tmp_path / "results"


def test_a_submitted_run_that_goes_on_takes_the_files_it_brought(
    make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_file, here = make_job("training.rounds=9"), tmp_path_factory.mktemp("here")
    log = RunLog(here / "run", "run", job_file)
    log.open("mlflow-run")
    log.close()
    (here / "job.yaml").write_text("without the override")
    monkeypatch.chdir(here)
    assert read_log(here / "run").job_file.folder == job_file.folder
    monkeypatch.setenv("BLINDSUM_SUBMITTED", "1")
    found = read_log(here / "run").job_file
    assert found.folder == here and found.job.training.rounds == 9


def test_keys_and_results_are_left_out_of_a_folder_that_is_sent_whole(
    make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job_file = make_job()
    for name in ("state/alder/identity.pem", "runs/one/model.pt", "mlflow.db", "other.pem"):
        path = job_file.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    sent = _folder(job_file, tmp_path_factory.mktemp("sent"), whole=True)
    assert {p.name for p in sent.rglob("*") if p.is_file()} == {
        "job.yaml", "alder.parquet", "birch.parquet", "cedar.parquet",
    }  # fmt: skip


def test_who_cannot_reach_a_cluster_is_told_why(tmp_path: Path, make_job: MakeJob) -> None:
    with pytest.raises(ClusterError, match="does not answer"):
        Cluster("http://127.0.0.1:9")
    with pytest.raises(ClusterError, match="begins with http"):
        Cluster("127.0.0.1:8265")
    with pytest.raises(ClusterError, match="there is no certificate"):
        Cluster("https://127.0.0.1:9", tmp_path / "none.crt")
    runner = CliRunner()
    asked = runner.invoke(
        app, ["submit", str(make_job().path), "--address", "http://x", "--ship", "b"]
    )
    assert isinstance(asked.exception, JobError) and "there is no --ship 'b'" in str(
        asked.exception
    )

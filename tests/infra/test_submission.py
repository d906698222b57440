"""Submission: the files that are sent to a cluster, and the errors if it cannot be reached."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from blindsum.infra.bundle import write_bundle
from blindsum.infra.submission import Cluster, refusal, require_portable
from blindsum.infra.wheel import digest_of, make_wheel, requirements
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.run.run_log import RunLog, read_log
from blindsum.platform.errors import ClusterError, JobError
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.job.paths import results_folder
from tests.conftest import SILOS, MakeJob


def test_the_wheel_has_this_code_declares_no_requirements_and_is_named_by_content(
    tmp_path: Path,
) -> None:
    """Ray takes a wheel whose name it knows from its cache, whatever its content."""
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
        assert {"blindsum/platform/job/schema.py", "blindsum/pipelines/cli/starter.yaml"} <= set(
            names
        )
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, first],
        check=True,
        capture_output=True,
    )
    found = subprocess.run(
        [sys.executable, "-c", "import blindsum.infra.wheel as w; print(w.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
    )
    assert found.stdout.startswith(str(target))


def test_the_command_writes_a_wheel_for_plain_job_submission(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["job", "wheel", str(tmp_path)])
    assert done.exit_code == 0
    environment = json.loads(done.stdout.splitlines()[-1])
    assert environment["py_modules"] == [str(next(tmp_path.glob("*.whl")))]
    assert Path(environment["pip"]).read_text().splitlines() == requirements()


def test_requirements_are_pinned_to_the_installed_versions() -> None:
    pins = requirements()
    named = {Requirement(pin).name: Requirement(pin) for pin in pins}
    assert len(named) == len(pins) and {"torch", "tenseal", "mlflow", "opacus", "numpy"} <= set(
        named
    )
    assert "ray" not in named and "pytest" not in named  # a node's Ray is the cluster's
    assert all("==" in pin and "+" not in pin and "@" not in pin for pin in pins)


def sent(job_file: JobFile, folder: Path, *, with_tables: bool) -> set[str]:
    """Return the files that are sent, relative to the folder in which they arrive."""
    made = write_bundle(job_file, folder, with_tables=with_tables)
    assert (made / "job.yaml").read_text() == job_file.text
    return {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}


@pytest.fixture
def crowded(make_job: MakeJob) -> JobFile:
    """Return a job with other files in its folder: helpers, keys, results."""
    job_file = make_job("privacy={noise: none}", "model={kind: factory, factory: own.net:make}")
    sources = {
        "own/__init__.py": "",
        "own/net.py": "import torch\nfrom . import parts\nimport helper\n",
        "own/parts.py": "from own.deep.er import x\n",
        "own/deep/er.py": "x = 1\n",
        "helper.py": "import os\n",
        "unrelated.py": "",
        "own/unused.py": "",
    }
    others = (
        ".env",
        "secret",
        "token",
        "tls/ca.key",
        "state/alder/identity.pem",
        "runs/one/model.blindsum",
        "mlflow.db",
        "another.parquet",
        ".git/config",
    )
    for name in (*sources, *others):
        path = job_file.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sources.get(name, "x"))
    return job_file


SOURCES = {"own/__init__.py", "own/net.py", "own/parts.py", "own/deep/er.py", "helper.py"}
TABLES = {"alder.parquet", "birch.parquet", "cedar.parquet"}


def test_only_files_that_the_job_names_are_sent(crowded: JobFile, tmp_path: Path) -> None:
    assert sent(crowded, tmp_path / "a" / "job", with_tables=False) == {"job.yaml", *SOURCES}
    assert sent(crowded, tmp_path / "b" / "job", with_tables=True) == {
        "job.yaml",
        *SOURCES,
        *TABLES,
    }


def test_tables_are_sent_only_from_the_jobs_own_folder(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job()
    (job_file.folder / "birch.parquet").unlink()
    outside = job_file.path.read_text().replace("alder.parquet", "../alder.parquet")
    job_file.path.write_text(outside)
    with pytest.raises(JobError, match=r"silos\.alder\.data, silos\.birch\.data: no such file"):
        write_bundle(load_job(job_file.path), tmp_path / "sent" / "job", with_tables=True)


def test_a_factory_that_cannot_be_read_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job("privacy={noise: none}", "model={kind: factory, factory: own:make}")
    (job_file.folder / "own.py").write_text("def make(:\n")
    with pytest.raises(JobError, match=r"own\.py of the job's own code is not valid Python"):
        write_bundle(job_file, tmp_path / "sent" / "job", with_tables=False)


def test_relative_paths_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match="silos.alder.data, silos.birch.data, silos.cedar.data"):
        require_portable(make_job())


def test_a_datasets_name_in_the_owners_file_is_accepted(make_job: MakeJob) -> None:
    job_file = make_job()
    for name in SILOS:
        (job_file.folder / f"{name}.parquet").unlink()
    job_file.path.write_text(job_file.path.read_text().replace(".parquet", ""))
    assert require_portable(load_job(job_file.path)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Request failed with status code 401: Unauthorized", "refuses this token"),
        ("Request failed with status code 403: Forbidden", "refuses this token"),
        ("Request failed with status code 404: Job x does not exist", "has no such job"),
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


def test_a_submitted_run_that_is_resumed_uses_the_files_sent_with_it(
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


def test_the_error_says_why_a_cluster_cannot_be_reached(tmp_path: Path, make_job: MakeJob) -> None:
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
    assert isinstance(asked.exception, JobError) and "unknown --ship 'b'" in str(asked.exception)

"""MLflow on PostgreSQL, as infra/mlflow starts it, stores a run's figures and model."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psycopg
import pytest

from blindsum.platform.prediction.released import released
from blindsum.platform.tracking.mlflow_run import Tracker
from blindsum.platform.tracking.names import EPSILON_SPENT, SECONDS_ROUND
from blindsum.platform.training.models import model_of
from tests.conftest import MakeJob

SERVER = Path(__file__).resolve().parents[2] / "infra/mlflow/blindsum-mlflow"
NOBODY = 65534
PASSWORD = "a password"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary(name: str) -> str:
    """Return the path of a program of PostgreSQL; Debian keeps the servers in a separate folder."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(kept[-1]) if kept else None)
    assert found, f"{name} is missing: install PostgreSQL (Debian: apt-get install postgresql)"
    return found


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """Start a PostgreSQL for the test, and yield its address in psql's environment variables."""
    folder, port = Path(tempfile.mkdtemp(prefix="blindsum-pg-")), free_port()
    # PostgreSQL refuses to be run by root.
    owner = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    if owner:
        os.chown(folder, NOBODY, NOBODY)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data = folder / "data"
    commands = (
        [
            binary("initdb"),
            "-D",
            data,
            "-U",
            "mlflow",
            "-A",
            "scram-sha-256",
            f"--pwfile={folder / 'password'}",
        ],
        [
            binary("pg_ctl"),
            "-D",
            data,
            "-w",
            "-l",
            folder / "log",
            "-o",
            f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off",
            "start",
        ],
    )
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **owner)  # type: ignore[call-overload]
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGPASSWORD": PASSWORD}
    try:
        with psycopg.connect(
            host="127.0.0.1",
            port=port,
            user="mlflow",
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
        ) as db:
            db.execute("CREATE DATABASE mlflow")
        yield where | {"PGDATABASE": "mlflow"}
    finally:
        stop = [binary("pg_ctl"), "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=folder, **owner)  # type: ignore[call-overload]
        shutil.rmtree(folder)


def served(database: dict[str, str], artifacts: Path, port: int) -> subprocess.Popen[str]:
    said = database | {"MLFLOW_ARTIFACTS": str(artifacts), "MLFLOW_PORT": str(port)}
    said |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [str(SERVER)],
        env=os.environ | said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=artifacts,
        text=True,
    )
    said_so_far = []
    for line in process.stdout or ():
        said_so_far.append(line)
        if "Application startup complete" in line:
            # its further output must be read, or it blocks
            threading.Thread(target=process.communicate, daemon=True).start()
            return process
    raise AssertionError("".join(said_so_far)[-2000:])


@pytest.mark.filterwarnings("ignore")  # MLflow's
def test_a_runs_figures_and_model_are_stored_in_database_and_folder(
    make_job: MakeJob, tmp_path: Path, database: dict[str, str]
) -> None:
    port = free_port()
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    server = served(database, artifacts, port)
    with open(f"/proc/{server.pid}/cmdline", "rb") as line:
        assert PASSWORD.encode() not in line.read()
    try:
        job_file = make_job(f"tracking.uri=http://127.0.0.1:{port}")
        tracker = Tracker(job_file, "run-1")
        link = tracker.ready()
        for round in (1, 2, 3):
            tracker.log_round(round, {SECONDS_ROUND: 0.5, EPSILON_SPENT: 0.1 * round})
        job = job_file.job
        tracker.log_model(released(job, "run-1", 3, model_of(job), {}), 3)
        assert tracker.finish("FINISHED", "all rounds", {}) is None
        logged = mlflow.MlflowClient(f"http://127.0.0.1:{port}").get_run(link.run_id)
        assert logged.info.status == "FINISHED" and logged.data.metrics[EPSILON_SPENT] == 0.1 * 3
    finally:
        server.terminate()
        server.wait(30)
    with psycopg.connect(
        host="127.0.0.1", port=database["PGPORT"], user="mlflow", password=PASSWORD, dbname="mlflow"
    ) as db:
        asked = db.execute("SELECT count(*) FROM metrics WHERE key = %s", (SECONDS_ROUND,))
        assert asked.fetchone() == (3,)
    assert list(artifacts.rglob("MLmodel"))

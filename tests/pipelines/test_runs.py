"""`blindsum runs` lists, shows and deletes runs; charges stay."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner, Result

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.past_runs import delete_run, past_run, past_runs
from blindsum.pipelines.run.run_log import RunLog
from blindsum.pipelines.run.train import train
from blindsum.platform.errors import BlindsumError, JobError
from tests.conftest import MakeJob, ledger_of


def blindsum(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def kept(folder: Path, name: str, *lines: dict[str, Any], age_s: float = 0) -> Path:
    """A run's folder with a log of those lines."""
    run = folder / name
    run.mkdir(parents=True)
    first = {"run": name, "path": "/job.yaml", "text": "", "mlflow_run": "m1"}
    (run / "rounds.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in (first, *lines)))
    os.utime(run / "rounds.jsonl", (time.time() - age_s,) * 2)
    return run


ROUND = {"report": {"round": 1, "epsilon": {"alder": 1.25, "birch": 2.5}}}


def test_runs_are_listed_newest_first_with_what_can_be_resumed(tmp_path: Path) -> None:
    kept(tmp_path, "old", ROUND, {"ended": True}, age_s=100)
    kept(tmp_path, "new", ROUND)
    (tmp_path / "other").mkdir()
    done = blindsum("runs", "list", tmp_path)
    rows = done.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["new", "old"]
    assert "interrupted" in rows[0] and "2.500" in rows[0] and "completed" in rows[1]
    assert f"to resume: blindsum resume {tmp_path}/new" in done.stderr.replace("\n", "")
    said = [json.loads(x) for x in blindsum("runs", "list", tmp_path, "--json").stdout.splitlines()]
    assert [(one["run"], one["state"], one["rounds"]) for one in said] == [
        ("new", "interrupted", 1),
        ("old", "completed", 1),
    ]


@pytest.mark.parametrize("content", ["", "{", "[1]\n", '{"run": 1}\n', "\xff"])
def test_a_damaged_log_is_listed_as_unreadable(tmp_path: Path, content: str) -> None:
    run = kept(tmp_path, "bad")
    (run / "rounds.jsonl").write_bytes(content.encode("latin-1"))
    (found,) = past_runs(tmp_path)
    assert (found.name, found.state) == ("bad", "unreadable")


def test_a_running_run_is_not_deleted(tmp_path: Path) -> None:
    run = kept(tmp_path, "busy", ROUND)
    hold = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX)"
    told = [sys.executable, "-c", f"{hold}; print(flush=True); time.sleep(60)"]
    holder = subprocess.Popen([*told, run / "rounds.jsonl"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        assert past_run(run).state == "running"
        assert "is running" in str(blindsum("runs", "delete", run, "--yes").exception)
        assert run.is_dir()
    finally:
        holder.kill()
        holder.communicate()


def test_a_run_that_was_resumed_after_it_was_looked_at_is_not_deleted(
    tmp_path: Path, make_job: MakeJob
) -> None:
    found = past_run(kept(tmp_path, "resumed", ROUND))
    assert found.state == "interrupted"
    log = RunLog(found.folder, found.name, make_job())
    log.open("m1")
    with pytest.raises(JobError, match="resumed is running"):
        delete_run(found)
    assert past_run(found.folder).rounds == 1
    log.close()
    delete_run(found)
    assert [*tmp_path.glob("*resumed*")] == []


def test_a_run_that_is_deleted_while_its_log_is_opened_is_not_resumed(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, flock = past_run(kept(tmp_path, "late", ROUND)), fcntl.flock

    def delete_first(file: IO[str], how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        delete_run(found)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with pytest.raises(BlindsumError, match="late was just deleted"):
        RunLog(found.folder, found.name, make_job()).open("m1")
    assert not found.folder.exists()


def test_a_deletion_is_asked_for_and_says_what_is_kept(tmp_path: Path) -> None:
    run = kept(tmp_path, "gone", ROUND)
    asked = blindsum("runs", "delete", run)
    assert isinstance(asked.exception, JobError) and run.is_dir()
    done = blindsum("runs", "delete", run, "--yes")
    said = " ".join(done.stderr.split())
    assert "every charge in the silos' ledgers: what was spent stays spent" in said
    assert "MLflow's run m1" in said and "cannot be resumed afterwards" in said
    assert done.stdout.startswith("deleted ") and not run.exists()


def test_only_a_runs_own_folder_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = kept(tmp_path / "runs", "real", ROUND)
    (tmp_path / "link").symlink_to(target)
    for path in (tmp_path / "data", tmp_path, tmp_path / "link"):
        assert isinstance(blindsum("runs", "delete", path, "--yes").exception, JobError)
    assert target.is_dir() and (tmp_path / "data").is_dir()


@pytest.mark.filterwarnings("ignore")  # MLflow's
def test_a_deleted_run_stays_charged(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(make_job(), None, Quiet(), cluster=ThreadCluster())
    monkeypatch.chdir(tmp_path)
    shown = blindsum("runs", "show", run.name).stdout
    assert "completed" in shown and "accuracy" in shown
    assert str(run.folder / "model.blindsum") in shown
    before = ledger_of(tmp_path / "state" / "alder", "alder").entries()
    assert blindsum("runs", "delete", run.name, "--yes").exit_code == 0
    assert not run.folder.exists()
    assert ledger_of(tmp_path / "state" / "alder", "alder").entries() == before != []


def test_a_lock_of_this_process_does_not_hide_a_run(tmp_path: Path) -> None:
    run = kept(tmp_path, "one", ROUND)
    with (run / "rounds.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert past_run(run).state == "running"
    assert past_run(run).state == "interrupted"

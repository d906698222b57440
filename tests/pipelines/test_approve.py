"""An owner reads what an approval covers before giving it, and can take it back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blindsum.pipelines.cli.app import app, main
from blindsum.platform.errors import ConsentError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.state.approval import Approvals
from tests.adversary.owners import Machine
from tests.adversary.test_lying_driver import owned_job, tried
from tests.conftest import MakeJob


@pytest.fixture
def machine(tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, ["alder"], {"tumours": tables["alder"]}, monkeypatch)


@pytest.fixture
def job_file(make_job: MakeJob, machine: Machine) -> JobFile:
    found = owned_job(make_job)
    found.path.write_text(found.text)
    return found


def blindsum(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], input=answer)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input as if it were a terminal."""
    monkeypatch.setattr("blindsum.pipelines.cli.options._is_terminal", lambda: True)


def test_what_is_approved_is_shown_in_about_ten_lines(job_file: JobFile, tables: object) -> None:
    done = blindsum("approve", job_file.path, "--yes", "--runs", 2, "--until", "2999-01-31")
    assert done.exit_code == 0, done.exception
    lines = done.stderr.splitlines()
    assert 10 <= len(lines) <= 16
    for said in (
        "trial, settings ",
        "tumours, which is ",
        "mean_radius, mean_texture, mean_smoothness, mean_concavity, patient, diagnosis",
        "epsilon 3 of at most 3, delta 0.0001; no job has charged it",
        "alder, birch, cedar; at least 3 take part; 0 of 3 identities pinned",
        "masked and encrypted (CKKS)",
        "to all silos and the driver",
        "not differentially private",
        "2 runs, until 2999-01-31 (UTC)",
    ):
        assert said in " ".join(done.stderr.split()), said
    assert done.stdout.startswith("approved trial for 2 runs until 2999-01-31, as ")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("answer", "given"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_only_a_yes_approves(job_file: JobFile, machine: Machine, answer: str, given: int) -> None:
    done = blindsum("approve", job_file.path, answer=answer)
    assert done.exit_code == (0 if given else 1)
    assert "Approve this?" in done.stderr
    assert len(Approvals(machine.ledger()).all()) == given


def test_without_a_terminal_nothing_is_approved_unasked(
    job_file: JobFile, machine: Machine
) -> None:
    done = blindsum("approve", job_file.path)
    assert isinstance(done.exception, JobError) and "add --yes" in str(done.exception)
    assert "epsilon 3 of at most 3" in done.stderr
    assert Approvals(machine.ledger()).all() == []


def test_a_doubtful_job_is_named_before_it_is_approved(job_file: JobFile) -> None:
    done = blindsum("approve", job_file.path, "--set", "privacy.epsilon=50", "--yes")
    assert "privacy.epsilon 50 promises little" in " ".join(done.stderr.split())


def test_approvals_are_listed_with_what_is_left_of_them(job_file: JobFile) -> None:
    for more in ((), ("--runs", 3, "--set", "seed=4")):
        assert blindsum("approve", job_file.path, "--yes", *more).exit_code == 0
    assert tried(job_file.job, folder=str(job_file.folder)) == "accepted"
    first, second = blindsum("approve", "--list").stdout.splitlines()[1:]
    assert "0 of 1" in first and "0 of 3" in second
    assert first.endswith("valid") and second.endswith("valid")


def test_a_revoked_approval_lets_no_run_start_or_go_on(job_file: JobFile, machine: Machine) -> None:
    assert blindsum("approve", job_file.path, "--yes", "--runs", 9).exit_code == 0
    folder = str(job_file.folder)
    approvals = Approvals(machine.ledger())
    with approvals._ledger.chain.transaction():
        approvals.use("run-1", job_file.job)
    assert tried(job_file.job, "run-1", folder=folder) == "accepted"
    done = blindsum("approve", "--revoke", approvals.all()[0].id[:8])
    assert done.exit_code == 0 and "revoked" in done.stdout, done.exception
    for run in ("run-1", "run-2"):
        assert tried(job_file.job, run, folder=folder) == "refused"
    with pytest.raises(ConsentError, match="has revoked the approval of job 'trial'"):
        approvals.of("run-2", job_file.job)
    assert blindsum("approve", "--list").stdout.rstrip().endswith("revoked")
    again = blindsum("approve", "--revoke", "trial")
    assert "has no approval 'trial' to revoke" in str(again.exception)
    assert blindsum("approve", job_file.path, "--yes").exit_code == 0
    assert tried(job_file.job, "run-2", folder=folder) == "accepted"


def test_a_name_revokes_all_approvals_of_that_job(job_file: JobFile, machine: Machine) -> None:
    for seed in (4, 5):
        blindsum("approve", job_file.path, "--yes", "--set", f"seed={seed}")
    assert blindsum("approve", "--revoke", "trial").exit_code == 0
    approvals = Approvals(machine.ledger())
    assert {approvals.standing(one) for one in approvals.all()} == {"revoked"}
    assert "has no approval 'tria' to revoke" in str(
        blindsum("approve", "--revoke", "tria").exception
    )


def test_before_the_first_approval_there_is_none_to_list_or_revoke(machine: Machine) -> None:
    assert "silo alder has approved no job" in blindsum("approve", "--list").stderr
    done = blindsum("approve", "--revoke", "trial")
    assert "silo alder has no approval 'trial' to revoke" in str(done.exception)
    assert not (machine.state / "ledger.sqlite").exists()


def test_an_id_revokes_one_approval_and_only_if_it_begins_no_other(
    job_file: JobFile, machine: Machine
) -> None:
    approvals = Approvals(machine.ledger())
    for id in ("abcd1111", "abcd2222", "ffff0000"):
        approvals.give(job_file.job, "w", 1, 3e10, id=id)
    done = blindsum("approve", "--revoke", "abcd")
    assert "'abcd' begins the ids of 2 approvals" in str(done.exception)
    assert "has no approval 'fff'" in str(blindsum("approve", "--revoke", "fff").exception)
    assert approvals.revoked() == frozenset()
    assert blindsum("approve", "--revoke", "abcd2").exit_code == 0
    assert approvals.revoked() == {"abcd2222"}


def test_a_newcomer_who_locked_the_machine_is_told_how_to_go_on(
    make_job: MakeJob,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The examples name three silos; the owner's file allows one. Once this ended in a riddle."""
    monkeypatch.setattr(sys, "argv", ["blindsum", "check", str(make_job().path)])
    monkeypatch.setattr("blindsum.pipelines.cli.app.keep_stdout", lambda: None)
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert f"This machine has an owner's file, {machine.path}: silo alder takes part only" in said
    assert "blindsum approve JOB.YAML" in said and f"mv {machine.path}" in said


def test_silo_init_says_what_changes_from_then_on(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("x\n1\n")
    path = tmp_path / "own" / "silo.yaml"
    done = blindsum("silo", "init", "alder", "--dataset", f"a={table}", "--file", path)
    assert done.exit_code == 0 and done.stdout == ""
    assert f"wrote {path}. From now on this machine takes part only in jobs" in done.stderr

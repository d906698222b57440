"""What was asked for goes to stdout; progress, warnings and errors to stderr: every command.

And no table cuts a figure, however narrow the terminal is.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.show import console as show
from blindsum.pipelines.show.console import show_result
from blindsum.pipelines.show.table import Pairs, Sheet
from blindsum.platform.errors import BlindsumError
from tests.actors.test_silo import Consortium
from tests.conftest import MakeJob


@pytest.fixture(autouse=True)
def _stdout_again() -> Iterator[None]:
    yield
    show._kept = None


class Desk:
    """A job with one run in its silos' books, and a coordinator with an invited silo."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.job, self.folder = str(path), folder

    def run(self, *arguments: str) -> tuple[str, str]:
        """Return a command's stdout and stderr."""
        said = [one.format(job=self.job, folder=self.folder) for one in arguments]
        done = CliRunner().invoke(app, said, catch_exceptions=False)
        show._kept = None
        assert done.exit_code in (0, 1), done.stderr
        return done.stdout, done.stderr


@pytest.fixture
def desk(make_job: MakeJob, tmp_path: Path) -> Desk:
    Consortium(make_job(), "run-1").round(1)
    made = Desk(make_job().path, tmp_path)
    made.run("coordinator", "init", "--url", "https://127.0.0.1:1", "--folder", "{folder}/hub")
    return made


OF_ALDER = ("{job}", "--silo", "alder")
HUB = ("--folder", "{folder}/hub")
ASKED: dict[str, tuple[tuple[str, ...], str]] = {
    "--version": (("--version",), "torch "),
    "check": (("check", "{job}"), "3.000 of 3"),
    "identity": (("identity", *OF_ALDER), ""),
    "ledger show": (("ledger", "show", *OF_ALDER), "run-1"),
    "ledger verify": (("ledger", "verify", *OF_ALDER), "all hashes and signatures are valid"),
    "ledger limit": (("ledger", "limit", *OF_ALDER, "--epsilon", "5"), "from none to epsilon 5"),
    "audit-log show": (("audit-log", "show", *OF_ALDER), "joined"),
    "audit-log verify": (("audit-log", "verify", *OF_ALDER), "signatures are valid"),
    "cache show": (("cache", "show", *OF_ALDER), "kept: 1 entry"),
    "cache clear": (("cache", "clear", *OF_ALDER), "removed: 1 entry"),
    "coordinator status": (("coordinator", "status", *HUB), "no silo is enrolled"),
    "invite": (("invite", "alder", *HUB), ""),
    "silo show": (("silo", "show"), "no owner's file"),
    "doctor": (("doctor", "--quick"), "packages: "),
    "runs list": (("runs", "list", "{folder}/runs"), "interrupted"),
    "runs show": (("runs", "show", "{folder}/runs/run-9"), "interrupted"),
    "runs delete": (("runs", "delete", "{folder}/runs/run-9", "--yes"), "deleted "),
}


@pytest.mark.parametrize("command", ASKED)
def test_what_was_asked_for_is_on_stdout(desk: Desk, command: str) -> None:
    kept = desk.folder / "runs" / "run-9"
    kept.mkdir(parents=True)
    line = {"run": "run-9", "path": desk.job, "text": "", "mlflow_run": "m"}
    (kept / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    arguments, said = ASKED[command]
    out, err = desk.run(*arguments)
    assert out.strip() and said in out
    assert not said or said not in err


WRITES = {
    "init": ("init", "{folder}/new.yaml"),
    "secret": ("secret", "{folder}/secret"),
    "ledger export": ("ledger", "export", *OF_ALDER, "--to", "{folder}/ledger.json"),
    "describe": ("describe", "{job}", "--epsilon", "1", "--write", "{folder}/statistics.yaml"),
    "audit-log export": ("audit-log", "export", *OF_ALDER, "--to", "{folder}/audit.json"),
    "certificates": ("certificates", "authority", "{folder}/authority"),
}


@pytest.mark.parametrize("command", WRITES)
def test_a_command_that_writes_a_file_says_on_stderr_what_and_where(
    desk: Desk, command: str
) -> None:
    arguments = WRITES[command]
    out, err = desk.run(*arguments)
    assert out == "" and err.startswith("wrote ")
    assert arguments[-1].format(folder=desk.folder) in err.replace("\n", "")


def test_an_export_says_how_many_entries(desk: Desk) -> None:
    _, err = desk.run("ledger", "export", *OF_ALDER, "--to", "{folder}/ledger.json")
    assert "wrote 2 entries of the ledger " in err and "hashes, signatures and signers" in err


def test_warnings_do_not_get_into_a_plan_that_is_kept(desk: Desk) -> None:
    out, err = desk.run("check", "{job}", "--set", "privacy.epsilon=1000000")
    assert "warning:" not in out and "This job would run." in out
    assert "privacy.epsilon 1e+06 promises little" in err.replace("\n", " ")
    out, err = desk.run("ledger", "limit", *OF_ALDER, "--epsilon", "1000000")
    assert "promises little" not in out
    assert "a lifetime limit of epsilon 1e+06 promises little" in err.replace("\n", " ")


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*before, name))
        else:
            yield (*before, name)


ELSEWHERE = {
    "run",
    "resume",  # test_cli.py: the summary
    "audit",
    "baseline",
    "compare",
    "sweep",
    "prepare",
    "import tuner",
    "import sparsechem",
    "features",
    "plan",
    "release create",
    "release sign",
    "verify",
    "predict",  # their own tests
    "silo init",
    "silo join",
    "silo serve",
    "silo status",
    "silo jobs",
    "silo approve",
    "silo refuse",
    "approve",  # test_approve.py, consortium/
    "coordinator init",
    "coordinator serve",
    "coordinator start",
    "coordinator withdraw",
    "propose",
    "submit",
    "job list",
    "job status",
    "job logs",
    "job wheel",
    "job stop",  # infra/
    "ledger adopt",
    "certificates node",
}


def test_every_command_has_its_place_in_these_tests() -> None:
    every = {" ".join(one) for one in commands(typer.main.get_command(app))}
    here = {name for name in (*ASKED, *WRITES)} - {"--version", "certificates"}
    assert every == here | ELSEWHERE | {"certificates authority"}


def rendered(width: int, *parts: Any) -> str:
    out = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    out.print(*parts)
    return out.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [20, 40, 60, 120])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("columns", range(1, 10))
def test_no_figure_is_cut_at_any_width(width: int, text: bool, columns: int) -> None:
    random = np.random.default_rng(columns)
    headings = [f"a heading {'x' * int(random.integers(12))}" for _ in range(columns)]
    sheet, pairs, figures = Sheet(*headings, title="a table", text=text), Pairs(), list[str]()
    for _ in range(3):
        row = [f"{random.uniform(0, 1e6):.3f}" for _ in headings]
        figures += row
        sheet.add(*row[:-1], f"{row[-1]} of what a silo may spend in all of its jobs")
        pairs.add(headings[0], f"epsilon {row[0]} of 3 at every silo, at delta 0.0001")
    found = rendered(width, sheet)
    assert "…" not in found and all(one in found for one in figures)
    assert max(map(len, found.splitlines())) <= max(width, len(headings[0]))
    assert "…" not in rendered(width, pairs) and "0.0001" in rendered(width, pairs)


SHEETS: dict[str, Callable[[Desk], Any]] = {
    name: lambda desk, arguments=ASKED[name][0]: desk.run(*arguments)
    for name in ("check", "ledger show", "audit-log show")
}


@pytest.mark.parametrize("width", [40, 60])
@pytest.mark.parametrize("command", SHEETS)
def test_a_commands_tables_show_every_figure_on_a_narrow_terminal(
    desk: Desk, command: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = " ".join(SHEETS[command](desk)[0].split())
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    narrow = re.sub("\x1b[^m]*m", "", SHEETS[command](desk)[0])
    assert "…" not in narrow and "..." not in narrow
    figures = [one for one in whole.split() if one.replace(".", "", 1).isdigit()]
    assert figures and set(figures) <= set(narrow.split())


def test_lines_of_a_file_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    show_result("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_no_text_is_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A column's name, a path or another silo's words once lost their brackets, or ended the
    command."""
    text = "column mass[kg] [/] of /data:on:disk"
    for show_text in (show_result, show.console.print, show.show_event, show.show_incomplete):
        show_text(text)
    show.show_warnings([text])
    show.show_error(BlindsumError(text))
    said = "".join(capsys.readouterr())
    assert said.count(text) == 6


def test_a_service_shows_control_characters_that_others_wrote(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.show_event("refused: \x1b[2Jall is well\n12:00:00 approved")
    said = capsys.readouterr().err
    assert r"refused: \x1b[2Jall is well\n12:00:00 approved" in said and "\x1b" not in said


def test_a_full_disk_behind_stderr_ends_nothing() -> None:
    with open("/dev/full", "w") as full:
        quiet = show._Stderr(file=full, width=80)
        quiet.print("a warning")
        quiet.print("another one")

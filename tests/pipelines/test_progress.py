"""Work that takes a while shows a line on a terminal, and nothing anywhere else."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.comparison import sweep
from blindsum.pipelines.show import console as show
from blindsum.pipelines.show import progress as shown_by
from blindsum.pipelines.show.console import _Stderr
from blindsum.pipelines.show.progress import Shown, progress
from tests.conftest import MakeJob
from tests.pipelines.test_predict import ECFP, of_sizes
from tests.platform.test_prediction import molecules, written

PREPARED = Path(__file__).resolve().parents[2] / "examples" / "assays" / "prepare"


class Screen:
    """A pseudo-terminal with somebody who reads it."""

    def __init__(self) -> None:
        self._reader, self.tty = pty.openpty()
        self.text = ""

    def until(self, said: str) -> None:
        """Wait until it shows that."""
        while said not in self.text:
            assert select.select([self._reader], [], [], 60)[0], self.text
            self.text += re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", os.read(self._reader, 4096).decode())

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """What stderr is in these tests."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    one = Screen()
    with os.fdopen(one.tty, "w") as file:
        monkeypatch.setattr(shown_by, "console", _Stderr(file=file))
        monkeypatch.setattr(shown_by, "AFTER_S", 0.0)
        yield one
    one.close()


def test_a_terminal_shows_what_is_done_and_how_far(screen: Screen) -> None:
    with progress("reading list.csv", quiet=False) as shown:
        screen.until("reading list.csv")
        shown.stage("predicting [mass]", 40)
        shown.step(13)
        screen.until("predicting [mass]")
        screen.until("13/40")
        shown.stage("silos read their data")
        shown.share(0.25)
        screen.until("25 %")
        shown.stage("writing")
        screen.text = ""
        screen.until("writing")
        screen.until("0:00:0")
        line = screen.text[screen.text.rindex("writing") :]
        assert "/40" not in line and "%" not in line
    with progress("rounds", quiet=False, total=7):
        screen.until("0/7")


def test_work_that_is_done_at_once_shows_nothing(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_by, "AFTER_S", 3600.0)
    with progress("quick", quiet=False) as shown:
        shown.stage("quicker", 3)
        shown.step()
    shown_by.console.print("the result")
    screen.until("the result")
    assert "quick" not in screen.text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_work_and_files_show_nothing(
    is_terminal: bool, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    if not is_terminal:
        monkeypatch.setattr(shown_by, "console", _Stderr(file=file))
    with progress("reading", quiet=is_terminal) as shown:
        shown.stage("predicting", 3)
        shown.step()
        shown.share(0.5)
    shown_by.console.print("the result")
    if is_terminal:
        screen.until("the result")
    assert "reading" not in screen.text + file.getvalue()


def test_the_line_ends_with_an_error(screen: Screen) -> None:
    with pytest.raises(ZeroDivisionError), progress("dividing", quiet=False):
        screen.until("dividing")
        _ = 1 / 0
    shown_by.console.print("error: it did not work")
    screen.until("error: it did not work")
    assert "dividing" not in screen.text[screen.text.index("error:") :]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that commands go through."""
    found: list[str] = []
    begin, stage = Shown.__init__, Shown.stage

    def begun(shown: Shown, text: str, quiet: bool) -> None:
        found.append(text)
        begin(shown, text, quiet)

    def entered(shown: Shown, text: str, total: int | None = None) -> None:
        found.append(text if total is None else f"{text} ({total})")
        stage(shown, text, total)

    monkeypatch.setattr(Shown, "__init__", begun)
    monkeypatch.setattr(Shown, "stage", entered)
    return found


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    show._kept = None
    assert done.exit_code == 0, done.stderr
    return done.stderr


def test_predict_shows_every_part_of_its_work(stages: list[str], tmp_path: Path) -> None:
    model = written(molecules(ECFP, {"toxic": {}}, tmp_path), tmp_path)
    of_sizes(60).to_csv(tmp_path / "labelled.csv", index=False)
    (tmp_path / "list.csv").write_text("structure\nCCO\nCCC\n")
    labelled, out = tmp_path / "labelled.csv", tmp_path / "out.csv"
    said = run("predict", model, tmp_path / "list.csv", "--out", out, "--calibrate", labelled)
    assert stages == [
        "loading PyTorch",
        "reading the model",
        "reading list.csv",
        "reading labelled.csv",
        "predicting the labelled records (60)",
        "calibrating",
        "predicting (2)",
        "writing out.csv",
    ]
    assert "predicting" not in said and "\x1b" not in said


def test_check_shows_how_many_silos_are_read(stages: list[str], make_job: MakeJob) -> None:
    said = run("check", make_job().path)
    assert stages == ["starting", "starting", "planning, and reading the silos' tables (3)"]
    assert "reading" not in said


def test_prepare_shows_every_part_of_its_work(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "home"))
    secret, out = tmp_path / "secret", tmp_path / "out"
    run("secret", secret)
    more = ("--secret", secret, "--out", out)
    run("prepare", PREPARED / "recipe.yaml", PREPARED / "alder.yaml", *more)
    counted = [one.partition(" (")[0] for one in stages]
    assert counted == [
        "starting",
        "reading the tables",
        "looking for structures that were computed before",
        "starting Ray",
        "structures",
        "looking for features that were computed before",
        "features",
        "combining measurements",
        "writing out",
    ]


def test_runs_are_listed_with_the_share_that_was_read(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(Shown, "share", lambda shown, share: shares.append(share))
    for i in range(4):
        (tmp_path / f"run-{i}").mkdir()
        (tmp_path / f"run-{i}" / "rounds.jsonl").write_text("{}\n")
    run("runs", "list", tmp_path)
    assert stages == ["reading runs"] and shares == [0.25, 0.5, 0.75, 1.0]


def test_no_command_shows_progress_in_another_way() -> None:
    """One line, of one module. A run's own display is the exception: it has a table too."""
    root = Path(show.__file__).resolve().parents[1]
    own = {"show/progress.py", "run/output.py"}
    using = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"rich\.(progress|status|live|spinner)", path.read_text())
    }
    assert using == own and sys.modules[progress.__module__] is shown_by


def test_comparisons_show_every_part_of_their_work(
    stages: list[str], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "ray_session", lambda address: nullcontext())
    path = make_job().path
    run("sweep", path, "--epsilon", "none", "--arms", "pooled", "--set", "privacy={noise: none}")
    assert stages == [
        "starting",
        "looking for finished runs",
        "starting Ray",
        "runs (1)",
        "reading runs from MLflow",
    ]
    stages.clear()
    run("compare", path)
    assert stages == ["starting", "reading runs from MLflow", "drawing the page"]

"""The stages of a run's start: named, with seconds, and with those of earlier runs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from blindsum.pipelines.run.output import Lines
from blindsum.pipelines.run.stages import FILE, Stages


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ran(folder: Path, seconds: float, job: str = "trial") -> list[tuple[str, float]]:
    """A run whose Ray takes that long."""
    ended: list[tuple[str, float]] = []
    clock = Clock()
    stages = Stages(job, folder, lambda *one: ended.append(one), clock)
    assert stages.enter("starting Ray")
    clock.now = seconds
    assert stages.enter("reading")
    assert not stages.enter("reading: 40 %")
    clock.now = seconds + 1
    stages.leave()
    stages.leave()
    stages.keep()
    return ended


def test_each_stage_ends_once_with_its_seconds(tmp_path: Path) -> None:
    assert ran(tmp_path, 2.0) == [("starting Ray", 2.0), ("reading", 1.0)]


def test_the_usual_seconds_are_the_median_of_the_jobs_last_runs(tmp_path: Path) -> None:
    for seconds in (100.0, 100.0, 4.0, 5.0, 6.0, 7.0, 8.0):
        ran(tmp_path, seconds)
    of_job, of_other = (Stages(job, tmp_path, lambda *_: None) for job in ("trial", "other"))
    of_job.enter("starting Ray")
    of_other.enter("starting Ray")
    assert of_job.usual == 6.0 and of_other.usual is None
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "[]", '{"trial": 1}', '{"trial": {"x": "y"}}', "[" * 9999])
def test_a_damaged_file_costs_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert ran(tmp_path, 2.0)
    assert ran(tmp_path / "nowhere", 2.0)


def test_a_log_has_each_stage_when_it_begins_and_when_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindsum.pipelines.run.stages._MOMENT_S", 0.0)
    lines = Lines()
    for text in ("starting Ray", "reading: 10 %", "reading: 90 %", "key ceremony"):
        lines.stage(text)
    said = capsys.readouterr()
    monkeypatch.setattr("blindsum.pipelines.run.output._BETWEEN_S", 0.0)
    lines.stage("key ceremony: 2 of 3")
    assert capsys.readouterr().err == "key ceremony: 2 of 3\n"
    assert said.out == "" and said.err.splitlines() == [
        "starting Ray ...",
        "starting Ray: 0.0 s",
        "reading: 10 % ...",
        "reading: 0.0 s",
        "key ceremony ...",
    ]

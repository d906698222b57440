"""What the terminal shows, where nobody reads it."""

import io
import json
import os
from pathlib import Path

import pytest

from blindsum.pipelines.show import console
from blindsum.platform.errors import BlindsumError, LedgerError
from blindsum.platform.job.paths import require_usable


def test_a_reader_that_went_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(console, "_kept", stream)
        for number in range(3):
            console.emit("round", round=number)
        assert not stream.closed


def test_a_full_disk_behind_the_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once "a fault in Blindsum"."""
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(console, "_kept", stream)
        with pytest.raises(BlindsumError, match="cannot be written: No space left on device"):
            console.emit("check", job="x")


def test_what_a_terminal_cannot_show_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column's name may be in any script, the terminal of another organisation in none of it."""
    written = io.BytesIO()
    monkeypatch.setattr(console, "_kept", io.TextIOWrapper(written, encoding="latin-1"))
    console.show_result("größe 大")
    assert written.getvalue().decode("latin-1") == "größe \\u5927\n"


def test_events_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit("round", round=1)
    assert json.loads(capsys.readouterr().out) == {"event": "round", "round": 1}


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e12, "2500.0 GB")]
)
def test_sizes(count: float, shown: str) -> None:
    assert console.size(count) == shown


def test_a_state_folder_that_is_a_file_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="is not a folder. Set silos.state"):
        require_usable(tmp_path / "file" / "alder")
    require_usable(tmp_path / "not" / "yet" / "there")
    assert not (tmp_path / "not").exists()

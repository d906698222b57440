"""`blindsum cache`: what a silo kept is counted and removed, and nothing else."""

import json
from pathlib import Path

import pyarrow as pa
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.platform.data.kept_results import KeptResults
from tests.conftest import MakeJob


def test_a_silos_cache_is_shown_and_cleared(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job().path
    state = tmp_path / "state" / "alder"
    KeptResults(state).write(["a table"], pa.table({"x": [1.0] * 1000}))
    (state / "ledger.sqlite").write_text("not touched")

    def blindsum(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["cache", *arguments, str(job), "--silo", "alder"])
        assert done.exit_code == 0
        return done.stdout

    assert "silo 'alder': kept: 1 entry, " in blindsum("show")
    assert json.loads(blindsum("clear", "--json"))["entries"] == 1
    assert "kept: 0 entries" in blindsum("show")
    assert (state / "ledger.sqlite").read_text() == "not touched"

"""The shell completes job files, runs and silos, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeJob

HEAVY = ("torch", "ray", "mlflow", "pandas", "numpy", "pyarrow", "rdkit", "matplotlib")


def completed(words: str, folder: Path) -> list[str]:
    """What bash would be offered after those words; the last one is incomplete."""
    environment = os.environ | {
        "_BLINDSUM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from blindsum.pipelines.cli.app import app; app(prog_name='blindsum')",
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def folder(make_job: MakeJob, tmp_path: Path) -> Path:
    make_job()
    run = tmp_path / "runs" / "trial-eps3-1"
    run.mkdir(parents=True)
    (run / "rounds.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("blindsum doc", ["doctor"]),
        ("blindsum check jo", ["job.yaml"]),
        ("blindsum check no", []),
        ("blindsum check ru", ["runs/"]),
        ("blindsum resume ", ["runs/trial-eps3-1"]),
        ("blindsum runs show runs/tr", ["runs/trial-eps3-1"]),
        ("blindsum ledger show job.yaml --silo ", ["alder", "birch", "cedar"]),
        ("blindsum ledger show --silo b", ["birch"]),
        ("blindsum ledger show none.yaml --silo ", []),
    ],
)
def test_the_shell_is_offered(folder: Path, words: str, offered: list[str]) -> None:
    found = completed(words, folder)
    assert [one for one in found if one in offered] == offered
    assert "notes.txt" not in found and (offered or found in ([], [""]))


@pytest.mark.parametrize(
    "text",
    [
        "silos:\n  - {name: a-1, data: x}\n  - {data: y, name: b}\nname: job\n",
        "name: job\nsilos:\n- name: 'a-1'\n  data: x\n- data: y\n  name: b # c\ndata:\n  name: z\n",
    ],
)
def test_silos_are_read_however_they_are_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert completed("blindsum identity job.yaml --silo ", tmp_path) == ["a-1", "b"]


def test_completion_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys, blindsum.pipelines.cli.app, blindsum.pipelines.cli.versions as v;"
        "v.version_lines();"
        f"print([one for one in {HEAVY!r} if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"

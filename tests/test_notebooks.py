"""The notebooks in examples/ run from top to bottom in a kernel, and are stored with no outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=200).execute()
nbformat.write(notebook, sys.argv[2])
"""


def executed(notebook: Path, folder: Path) -> dict[str, Any]:
    """The notebook after its execution in a fresh kernel of this interpreter."""
    environment = {
        # No kernels that this machine's user installed.
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "JUPYTER_PATH": "",
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": str(folder / "tmp"),
    }
    (folder / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXECUTE, str(notebook), str(folder / "out.ipynb")],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "out.ipynb").read_text())
    return found


def outputs(notebook: dict[str, Any], kind: str) -> list[str]:
    """All outputs of that MIME type."""
    return [
        "".join(output["data"][kind])
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    found = executed(notebook, tmp_path)
    print(f"{notebook.stem}: {time.monotonic() - begun:.1f} s")
    tables = "".join(outputs(found, "text/html"))
    assert "accuracy" in tables and "epsilon" in tables
    assert len(outputs(found, "image/png")) == 1
    said = "".join(
        "".join(output["text"])
        for cell in found["cells"]
        for output in cell.get("outputs", ())
        if "text" in output
    )
    assert "Traceback" not in said and "install" not in said
    assert not list((tmp_path / "tmp").glob("blindsum-simulation-*"))
    if notebook.stem == "first_federation":
        assert "unknown key. Did you mean 'epsilon'?" in said and "finished" in tables
        assert "no mean_radius" in tables  # the record with a gap


def test_the_notebooks_are_stored_without_outputs() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_epsilons", "first_federation"]
    for path in NOTEBOOKS:
        content = json.loads(path.read_text())
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        assert code and all(not c["outputs"] and c["execution_count"] is None for c in code)
        assert set(content["metadata"]) == {"kernelspec", "language_info"}

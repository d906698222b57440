"""`blindsum --version`: what a report of a fault should name. Imports nothing heavy."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import blindsum

_NAMED = ("ray", "torch", "opacus", "tenseal", "mlflow", "pyarrow", "rdkit", "dp-accounting")


def version_lines() -> list[str]:
    """Return the versions of Blindsum, Python, and the packages on which a run's results depend."""
    commit = _commit()
    return [
        f"blindsum {blindsum.__version__}{f' (commit {commit})' if commit else ''}",
        f"Python {platform.python_version()} ({sys.executable})",
        *(f"{name} {_version(name)}" for name in _NAMED),
        platform.platform(),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _commit() -> str | None:
    """Return the commit of a checkout, or of an installation from a repository; None elsewhere."""
    root = Path(blindsum.__file__).resolve().parents[2]
    with suppress(OSError, subprocess.SubprocessError):
        if (root / ".git").exists():
            told = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
            done = subprocess.run(told, capture_output=True, text=True, timeout=5, check=True)
            return done.stdout.strip() or None
    with suppress(PackageNotFoundError, ValueError, KeyError, TypeError):
        said = json.loads(distribution("blindsum").read_text("direct_url.json") or "{}")
        return str(said["vcs_info"]["commit_id"])[:12]
    return None

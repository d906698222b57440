"""What the shell completes: job files, runs, silos. It reads names alone and imports nothing heavy.

A completion never fails and never prints: what cannot be read completes to nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

_SILO = re.compile(r"(?:^[\s-]*|[{,]\s*)name:\s*['\"]?([a-z0-9_-]{1,40})", re.MULTILINE)
_MOST_BYTES = 2**20


def job_files(incomplete: str) -> list[str]:
    """Return YAML files and folders that begin as typed."""
    return [path for path in _paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


def run_folders(incomplete: str) -> list[str]:
    """Return folders of runs, and folders that may hold some; before anything is typed, the runs
    in ./runs."""
    found = [path for path in _paths(incomplete) if path.endswith("/")]
    inside = [] if incomplete else list(_paths("runs/"))
    return [path.rstrip("/") if _is_run(path) else path for path in [*inside, *found]]


def silo_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the silos of the job file on the command line; without one, those of every job file in
    this folder."""
    given = context.params.get("job") or _typed_job()
    files = [Path(str(given))] if given else [Path(one) for one in job_files("")]
    names = dict.fromkeys(name for file in files for name in _silos(file))
    return [name for name in names if name.startswith(incomplete)]


def _typed_job() -> str | None:
    """Return the job file among the words typed so far: they are not parsed up to an option whose
    value is still missing. Shells pass them in these variables (bash; zsh and fish)."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return next((word for word in line.split() if word.endswith((".yaml", ".yml"))), None)


def _silos(path: Path) -> list[str]:
    with suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size <= _MOST_BYTES:
            text = path.read_text(encoding="utf-8")
            section = re.search(r"^silos:.*?(?=^[^\s#-]|\Z)", text, re.MULTILINE | re.DOTALL)
            return _SILO.findall(section.group()) if section else []
    return []


def _paths(incomplete: str) -> Iterator[str]:
    """Yield paths that begin as typed; folders end with "/"."""
    folder, name = os.path.split(incomplete)
    with suppress(OSError, ValueError):
        for entry in sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda e: e.name):
            hidden = entry.name.startswith(".") and not name.startswith(".")
            if entry.name.startswith(name) and not hidden:
                yield os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")


def _is_run(path: str) -> bool:
    return Path(path, "rounds.jsonl").is_file()

"""The runs whose results lie in a folder: listed, shown and deleted without importing torch.

Deleting removes the run's folder alone. What the silos charged stays in their ledgers: the records
were used, and no deletion makes that unseen.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blindsum.pipelines.run.run_log import NAME as LOG
from blindsum.platform.errors import JobError
from blindsum.platform.job.paths import MODEL

State = Literal["running", "completed", "interrupted", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """One run as its folder tells it.

    Attributes:
        changed: when its log was last written, seconds since 1970.
        state: `interrupted` runs can be resumed.
        rounds: completed rounds.
        epsilon: what each silo had spent after the last completed round.
    """

    name: str
    folder: Path
    changed: float
    state: State
    rounds: int = 0
    job: str = ""
    mlflow_run: str = ""
    epsilon: Mapping[str, float] = field(default_factory=dict)
    result: str = ""

    @property
    def model(self) -> Path | None:
        """The released model, if the run left one."""
        path = self.folder / MODEL
        return path if path.is_file() else None

    @property
    def bytes(self) -> int:
        """The size of its files."""
        found = 0
        for path in self.folder.rglob("*"):
            with suppress(OSError):  # a run that is under way replaces its files
                found += 0 if path.is_dir() else path.lstat().st_size
        return found


def past_runs(folder: Path, told: Callable[[float], None] = lambda share: None) -> list[PastRun]:
    """Return the runs in a folder, the newest first.

    Args:
        told: called with the share that was read, after each.
    """
    try:
        found = [one for one in folder.iterdir() if (one / LOG).is_file()]
    except OSError:
        return []
    read = []
    for count, one in enumerate(found, 1):
        read.append(_read(one))
        told(count / len(found))
    return sorted(read, key=lambda one: -one.changed)


def past_run(path: Path) -> PastRun:
    """Return the run in that folder.

    Raises:
        JobError: there is none.
    """
    path = path.absolute()
    if not (path / LOG).is_file():
        raise JobError(
            f"there is no run in {path}", f"Name a run's own folder, which contains {LOG}."
        )
    return _read(path)


def delete_run(run: PastRun) -> None:
    """Delete a run's folder.

    The run may have been resumed since it was read. So its log is locked until the folder has
    another name, under which nobody resumes it.

    Raises:
        JobError: it is running, a link, or cannot be deleted.
    """
    if run.folder.is_symlink():
        raise JobError(f"{run.folder} is a link", "Name the folder that it leads to.")
    try:
        with (run.folder / LOG).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside = run.folder.rename(run.folder.with_name(f".{run.folder.name}.deleted"))
        shutil.rmtree(aside)  # with no file open, which NFS would keep
    except BlockingIOError:
        raise JobError(f"{run.name} is running", "End it first, with Ctrl-C.") from None
    except OSError as error:
        raise JobError(
            f"{run.folder} cannot be deleted: {os.strerror(error.errno or 0)}",
            "Check its permissions.",
        ) from None


def _read(folder: Path) -> PastRun:
    path = folder / LOG
    changed = path.stat().st_mtime
    try:
        with path.open(encoding="utf-8") as file:
            lines = [found for line in file if isinstance(found := _parsed(line), dict)]
        first, rest = lines[0], lines[1:]
        reports = [line["report"] for line in rest if "report" in line]
        last = reports[-1] if reports else {}
        ended = any("ended" in line for line in rest)
        return PastRun(
            name=str(first["run"]),
            folder=folder,
            changed=changed,
            state="completed" if ended else "running" if _locked(path) else "interrupted",
            rounds=len(reports),
            job=str(first["path"]),
            mlflow_run=str(first["mlflow_run"]),
            epsilon={str(k): float(v) for k, v in dict(last.get("epsilon", {})).items()},
            result=_result(folder),
        )
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return PastRun(name=folder.name, folder=folder, changed=changed, state="unreadable")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # a line that a crash cut short


def _locked(path: Path) -> bool:
    """Return whether a process is writing that log."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _result(folder: Path) -> str:
    """Return the run's result in one line, from its privacy statement."""
    try:
        content = json.loads((folder / "privacy-statement.json").read_text(encoding="utf-8"))
        return str(content["Utility"]["held-out"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""

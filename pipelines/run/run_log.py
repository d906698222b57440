"""The driver's log of a run, from which it can be resumed: `rounds.jsonl` in the run's folder.

    first line    the job file's text and path, and the MLflow run
    next lines    of each completed round its report and the run's standing; after it, once the
                  round's model is evaluated, what that found and the round's figures
    last line     a note that the run has completed

Lines are appended and never changed. A line that a crash cut short does not count. The log has
nothing that is private to a silo: MLflow and the closing summary show the same. Its mode is 0600,
because a job file may name an MLflow server with a password.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pydantic import TypeAdapter

from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import SUBMITTED_VARIABLE
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import parse_section

if TYPE_CHECKING:
    from blindsum.actors.messages import Standing
    from blindsum.actors.round_report import RoundReport

NAME = "rounds.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """A run as read from its log."""

    name: str
    folder: Path
    job_file: JobFile
    mlflow_run: str
    reports: list[RoundReport]
    figures: dict[int, dict[str, float]]
    standing: Standing
    ended: bool = False


class RunLog:
    """A run's log, open for appending. A lock keeps other processes from resuming the same run."""

    def __init__(self, folder: Path, name: str, job_file: JobFile) -> None:
        self._folder, self._name, self._job_file = folder, name, job_file
        self._file: TextIO | None = None

    def open(self, mlflow_run: str) -> None:
        """Begin the log, or continue an existing one.

        Raises:
            BlindsumError: the log cannot be written, or another process is running or deleting
                this run.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / NAME
            self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), "a+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():  # deleted between the two lines above
                raise BlindsumError(f"{self._name} was just deleted", "Start a new run.")
            self._file.seek(0)
            content = self._file.read()
            if not content:
                self._append(
                    {
                        "run": self._name,
                        "path": str(self._job_file.path),
                        "text": self._job_file.text,
                        "mlflow_run": mlflow_run,
                    }
                )
            elif not content.endswith("\n"):
                self._file.write("\n")  # a line that was cut short stays a separate line
        except BlockingIOError:
            raise BlindsumError(
                f"another process is running {self._name}", "Wait for it, or end it first."
            ) from None
        except OSError as error:
            raise BlindsumError(
                f"results cannot be written in {self._folder}: {os.strerror(error.errno or 0)}",
                "Make room, or set runs to another folder.",
            ) from None

    def round(self, report: RoundReport, standing: Standing) -> str | None:
        """Append a completed round; returns a failure's message, because training continues without
        the log."""
        return self._append_or_say(
            {"report": asdict(replace(report, before=None)), "standing": asdict(standing)}
        )

    def figures(self, report: RoundReport, figures: Mapping[str, float]) -> str | None:
        """Append the figures of a completed round, as `round` does."""
        held_out = report.metrics.held_out
        return self._append_or_say(
            {
                "round": report.round,
                "held_out": asdict(held_out) if held_out else None,
                "kind": type(held_out).__name__,
                "metrics_epsilon": report.metrics_epsilon,
                "up_bytes": report.up_bytes,
                "down_bytes": report.down_bytes,
                "figures": dict(figures),
            }
        )

    def _append_or_say(self, line: dict[str, Any]) -> str | None:
        try:
            self._append(line)
        except OSError as error:
            return f"{self._folder / NAME} cannot be written: {os.strerror(error.errno or 0)}"
        return None

    def end(self) -> None:
        """Note that the run has completed and its model is saved."""
        with suppress(OSError):
            self._append({"ended": True})

    def close(self) -> None:
        """Close the log, so that other processes can resume the run."""
        if self._file:
            self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def read_log(folder: Path) -> Kept:
    """Read the log of a run, to resume it.

    Raises:
        JobError: there is no run in that folder, or its log cannot be read.
    """
    from blindsum.actors.messages import Standing

    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise _unreadable(folder) from None
    except OSError:
        raise JobError(
            f"there is no run to resume in {folder}",
            f"Name the run's own folder, which contains {NAME}: runs/NAME.",
        ) from None
    content = [found for line in lines if (found := _parsed(line))]
    try:
        text = content[0]["text"]
        path = _found(Path(content[0]["path"]))
        job = parse_section(text, path.name, Job, "job", "").section
        rounds = [line for line in content[1:] if "report" in line]
        evaluated = {line["round"]: line for line in content[1:] if "round" in line}
        reports = [_report(line["report"], evaluated) for line in rounds]
        at = _built(Standing, rounds[-1]["standing"]) if rounds else Standing()
        figures = {round: line["figures"] for round, line in evaluated.items()}
        return Kept(
            content[0]["run"],
            folder,
            JobFile(job, path, text),
            content[0]["mlflow_run"],
            reports,
            figures,
            at,
            any("ended" in line for line in content),
        )
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        raise _unreadable(folder) from None


def _unreadable(folder: Path) -> JobError:
    return JobError(f"{folder / NAME} cannot be read", "Start a new run.")


def _found(path: Path) -> Path:
    """Return the job file's path. A submitted job is sent with its folder, so a resumed job has a
    new copy of its files in the working directory."""
    here = Path.cwd() / path.name
    return here if SUBMITTED_VARIABLE in os.environ and here.is_file() else path


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _report(said: dict[str, Any], evaluated: Mapping[int, dict[str, Any]]) -> RoundReport:
    from blindsum.actors.round_report import RoundReport
    from blindsum.platform.evaluation.figures import HeldOut, Metrics, TaskFigures

    kinds: dict[str, Any] = {"HeldOut": HeldOut, "TaskFigures": TaskFigures}
    metrics, line = dict(said["metrics"]), evaluated.get(said["round"])
    known = {field.name for field in dataclasses.fields(RoundReport)}
    fields = {name: value for name, value in said.items() if name in known}
    if line:
        if line["held_out"] is not None:
            metrics["held_out"] = _built(kinds[line["kind"]], line["held_out"])
        fields |= {name: line[name] for name in ("metrics_epsilon", "up_bytes", "down_bytes")}
    return _built(RoundReport, fields | {"metrics": _built(Metrics, metrics)})


def _built(kind: type[T], said: dict[str, Any]) -> T:
    """Build a dataclass from parsed JSON. Raises ValueError, or pydantic's subclass of it, if a
    field is missing or has another type."""
    return TypeAdapter(kind).validate_python(said)

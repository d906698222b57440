"""Tracking in MLflow: one MLflow run per run, written by a thread that no round waits for.

The thread imports MLflow and opens the database while Ray starts. If the tracking server cannot be
reached at the start, the run is refused before anything is spent. If it cannot be reached later,
figures wait in order; the closing summary reports what could not be written by the end.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from blindsum.platform.errors import TrackingError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import results_folder
from blindsum.platform.tracking.mlflow_uri import open_client, sqlite_file, sqlite_uri
from blindsum.platform.tracking.names import SECONDS_ROUND, loggable
from blindsum.platform.tracking.run_facts import (
    NOTE,
    dataset_of,
    experiment_note,
    origin_tags,
    run_note,
    run_tags,
    settings_of,
)

Status = Literal["FINISHED", "FAILED", "KILLED"]
_ATTEMPTS = 3
PATIENCE_S = 15.0
"""Seconds for which the end of a run waits for an MLflow server that cannot be reached."""


@dataclass(frozen=True)
class RunLink:
    """The place of a run's figures in MLflow. `uri` is the tracking URI."""

    uri: str
    experiment: str
    run_id: str
    experiment_id: str


def tracking_uri(job_file: JobFile) -> str:
    """Return the job's tracking URI; by default, that of a SQLite file in its results folder."""
    if said := job_file.job.tracking.uri:
        return said
    return sqlite_uri(results_folder(job_file.folder) / "mlflow.db")


class Tracker:
    """Writes one MLflow run from its own thread.

    Args:
        run: the run's name.
        tags: tags in addition to those of the job.
        run_id: the MLflow id of an interrupted run that is resumed.
        command: the command that started the run, which MLflow shows as its source.
    """

    def __init__(
        self,
        job_file: JobFile,
        run: str,
        tags: Mapping[str, str] | None = None,
        run_id: str = "",
        command: str = "run",
    ) -> None:
        self._file, self._run, self._resumed = job_file, run, run_id
        self._tags, self._command = dict(tags or {}), command
        self.uri = tracking_uri(job_file)
        self.shown_uri = without_password(self.uri)
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._failure: str | None = None
        self._unreached: str | None = None
        self._late: deque[Callable[[], None]] = deque()
        self._link: RunLink | None = None
        self._run_id = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def ready(self, timeout_s: float = 60.0) -> RunLink:
        """Wait until the run exists.

        Raises:
            TrackingError: it could not be created.
        """
        if not self._ready.wait(timeout_s):
            self._failure = f"no answer within {timeout_s:g} s"
        if self._link is None:
            raise TrackingError(
                f"MLflow at {self.shown_uri} cannot be used: {self._failure}",
                "Check tracking.uri, or leave it out for a SQLite file beside the job file.",
            )
        return self._link

    def log_round(self, round: int, metrics: Mapping[str, float]) -> None:
        """Queue one round's metrics, named as in `names`. Returns at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, round) for name, value in loggable(metrics).items()]
        self._tasks.put(lambda: self._client.log_batch(self._run_id, metrics=batch))

    def log_missing(self, rounds: Mapping[int, Mapping[str, float]]) -> None:
        """Queue figures of rounds that MLflow lacks after an interruption."""

        def log() -> None:
            history = self._client.get_metric_history(self._run_id, SECONDS_ROUND)
            there = {metric.step for metric in history}
            for round, figures in rounds.items():
                if round not in there:
                    self.log_round(round, figures)

        self._tasks.put(log)

    def log_file(self, path: Path) -> None:
        """Queue a file to be stored with the run."""
        self._tasks.put(lambda: self._client.log_artifact(self._run_id, str(path)))

    def log_model(self, released: bytes, round: int) -> None:
        """Queue the file of the released model, as `blindsum.platform.prediction.released` makes
        it."""
        from blindsum.platform.tracking.model_logging import log_released

        self._tasks.put(lambda: log_released(released, self.uri, self._run_id, round))

    def finish(
        self, status: Status, ended: str, tags: Mapping[str, str], timeout_s: float = 60.0
    ) -> str | None:
        """Write everything that is queued and close the run.

        Returns:
            A description of what could not be written, or None.
        """
        self._tasks.put(lambda: self._close(status, {"blindsum.ended": ended, **tags}))
        self._tasks.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return f"MLflow at {self.shown_uri} did not take all figures within {timeout_s:g} s"
        return self._unreached or self._failure

    def _work(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._open()
                self._failure = None
                break
            except Exception as error:  # noqa: BLE001 - MLflow's backends may raise anything
                self._failure = _reason(error)
                # Another run may be creating the same tables at this moment.
                again = attempt + 1 < _ATTEMPTS and not self._run_id
                if again and self.uri.startswith("sqlite"):
                    time.sleep(1 + attempt)
                else:
                    break
        self._ready.set()
        while (task := self._tasks.get()) is not None:
            if self._link is not None:
                self._late.append(task)
                self._write()
        end = time.monotonic() + PATIENCE_S
        while self._late and time.monotonic() < end:
            time.sleep(1)
            self._write()

    def _write(self) -> None:
        """Write everything that waits, in order. An item that MLflow refuses is dropped; while
        MLflow cannot be reached, items wait."""
        while self._late:
            try:
                self._late[0]()
            except Exception as error:  # noqa: BLE001
                said = f"MLflow at {self.shown_uri} failed: {_reason(error)}"
                if _unreachable(error):
                    self._unreached = said
                    return
                self._failure = said
            self._late.popleft()
        self._unreached = None

    def _open(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # we show our own
        from mlflow.entities import Param, RunTag

        # After the import, which sets its own levels.
        for name in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(name).setLevel(logging.ERROR)

        if path := sqlite_file(self.uri):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._client = open_client(self.uri)
        job = self._file.job
        name = job.tracking.experiment or job.name
        if self._resumed:
            info = self._client.get_run(self._resumed).info
            self._run_id = info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            self._link = RunLink(self.shown_uri, name, self._run_id, info.experiment_id)
            return
        found = self._client.get_experiment_by_name(name)
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(
                name,
                artifact_location=_artifacts(self.uri),
                tags={NOTE: experiment_note(job)},
            )
        )
        tags = {NOTE: run_note(job), **origin_tags(self._file, self._command)}
        run = self._client.create_run(experiment, run_name=self._run, tags=tags)
        self._run_id = run.info.run_id
        params = [
            Param(k, v.replace(self.uri, self.shown_uri)) for k, v in settings_of(job).items()
        ]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._run_id, params=params[start : start + 100])
        stated = [RunTag(k, v) for k, v in (run_tags(job) | self._tags).items()]
        self._client.log_batch(self._run_id, tags=stated)
        self._client.log_inputs(self._run_id, datasets=[dataset_of(job)])
        text = self._file.text.replace(self.uri, self.shown_uri)
        self._client.log_text(self._run_id, text, "job.yaml")
        self._link = RunLink(self.shown_uri, name, self._run_id, experiment)

    def _close(self, status: Status, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._client.set_terminated(self._run_id, status)


def without_password(uri: str) -> str:
    """Return the URI without user and password, for it is shown, logged and stored with the run."""
    parts = urlsplit(uri)
    if not parts.username and not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _artifacts(uri: str) -> str | None:
    """Return the folder for artifacts, beside a SQLite file. A server decides for itself: None."""
    path = sqlite_file(uri)
    return (path.absolute().parent / "mlartifacts").as_uri() if path else None


def _unreachable(error: Exception) -> bool:
    """Return whether a retry may succeed: the server is away, or the database is busy or full."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ConnectionError", "Timeout", "OperationalError", "OSError"}:
        return True
    return "API request to" in str(error) or "OperationalError" in str(error)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__

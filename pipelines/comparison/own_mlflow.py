"""Keep a silo's figures by task, and its own models, in its private MLflow in its state folder."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

from blindsum.pipelines.comparison.compare import Trial
from blindsum.platform.errors import TrackingError
from blindsum.platform.job.paths import MODEL
from blindsum.platform.tracking.mlflow_uri import open_client, sqlite_uri


def keep_by_task(state: Path, experiment: str, trials: Sequence[Trial]) -> Path | None:
    """Bring the silo's MLflow up to date with the runs' `tasks.csv` and the silo's own models.

    Args:
        state: the silo's state folder.

    Returns:
        The SQLite file, or None if no run left figures by task on this machine.

    Raises:
        TrackingError: it cannot be written.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    from blindsum.platform.tracking.model_logging import log_released

    found = [t for t in trials if (state / "runs" / t.name / "tasks.csv").exists()]
    if not found:
        return None
    path = state / "mlflow.db"
    path.touch(mode=0o600)
    try:
        client = open_client(sqlite_uri(path))
        known = client.get_experiment_by_name(experiment)
        of = (
            known.experiment_id
            if known
            else client.create_experiment(experiment, (state / "mlartifacts").as_uri())
        )
        there = {run.info.run_name for run in client.search_runs([of], max_results=5000)}
        for trial in found:
            if trial.name in there:
                continue
            tags = {"blindsum.arm": trial.arm, "epsilon": f"{trial.epsilon or 'unbounded'}"}
            run = client.create_run(of, run_name=trial.name, tags=tags)
            now = int(time.time() * 1000)
            metrics = [
                Metric(f"{figure}/{_name(row['task'])}", float(value), now, int(row["round"]))
                for row in _rows(state / "runs" / trial.name / "tasks.csv")
                for figure, value in row.items()
                if figure not in ("round", "task") and value and math.isfinite(float(value))
            ]
            for start in range(0, len(metrics), 500):
                client.log_batch(run.info.run_id, metrics=metrics[start : start + 500])
            model = state / "runs" / trial.name / MODEL
            if model.is_file():
                last = max(metric.step for metric in metrics) if metrics else 0
                log_released(model.read_bytes(), sqlite_uri(path), run.info.run_id, last)
            client.set_terminated(run.info.run_id)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the silo's own MLflow {path} cannot be written ({type(error).__name__})",
            "Free some space, or move the file away: it is rebuilt from the runs' tasks.csv.",
        ) from None
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _name(task: str) -> str:
    """Return the task's name with characters that MLflow rejects replaced by "_"."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. ") else "_" for c in task)[:200]

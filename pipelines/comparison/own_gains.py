"""A silo's gains over training alone, task by task, which only the silo may see."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from blindsum.pipelines.comparison.compare import Comparison, bases_of, label
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import state_folder


def gains_by_task(
    job_file: JobFile, silo: str, comparison: Comparison
) -> dict[str, dict[str, float]]:
    """Return each task's mean gain over local training, by group, from the silo's own folder.

    Private to the silo: figures by task never leave it.

    Raises:
        JobError: the silo lacks figures by task of a local run and another run with the same seed.
    """
    folder = state_folder(job_file.silo(silo)) / "runs"
    trials = [*comparison.trials, *(t for t in comparison.alone if t.silo == silo)]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        alike = [t for t in trials if t.model == trial.model and (folder / t.name).exists()]
        base = bases_of(alike, trial.epsilon).get(trial.seed)
        if trial.arm == "local" or base is None:
            continue
        before = _by_task(folder / base.name, comparison.metric)
        for task, score in _by_task(folder / trial.name, comparison.metric).items():
            if task in before:
                found[label(trial.group)][task].append(score - before[task])
    if not found:
        raise JobError(
            f"silo {silo!r} lacks figures by task of a local run and another run with the same "
            "seed",
            "Jobs with tasks leave them on the silo's machine: run blindsum baseline local there.",
        )
    return {
        group: {task: float(np.mean(values)) for task, values in tasks.items()}
        for group, tasks in found.items()
    }


def _by_task(folder: Path, metric: str) -> dict[str, float]:
    try:
        with (folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    return {row["task"]: float(row[metric]) for row in rows if row.get(metric)}

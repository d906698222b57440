"""Silos' gains over training alone, task by task, which only the silos may see.

A gain is the difference of two models' figures in `runs/RUN/tasks.csv` of the silo's state folder,
paired by seed: above 0, the run is better than the silo alone. A figure that is better when it is
smaller is subtracted the other way round.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindsum.pipelines.comparison.compare import Comparison, Trial, bases_of, label
from blindsum.pipelines.comparison.estimates import Estimate, Scored, difference, median
from blindsum.platform.errors import JobError
from blindsum.platform.evaluation.intervals import Interval
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.paths import silo_places
from blindsum.platform.job.private_tasks import load_private_tasks

FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "conformal_efficiency": "conformal efficiency",
    "enrichment_1_percent": "enrichment at 1 %",
    "enrichment_5_percent": "enrichment at 5 %",
    "bedroc": "BEDROC",
    "calibration_error": "calibration error",
    "r2": "R2",
    "rmse": "RMSE",
}
"""The figures whose gains are shown, in words."""

SMALLER_IS_BETTER = {"calibration_error", "rmse"}

Figures = Mapping[str, Scored]


@dataclass(frozen=True)
class TaskGain:
    """The gains of one silo-task pair, by figure. `group` is "" for a task of no group."""

    silo: str
    task: str
    group: str
    gains: Mapping[str, Estimate]


Gains = Mapping[str, Sequence[TaskGain]]
"""By the words for a group of runs, such as "federated, epsilon 3"."""


@dataclass(frozen=True)
class Middle:
    """The gains of many silo-task pairs in one figure.

    `median` covers the choice of the pairs. `better` and `worse` count pairs whose own interval
    does not reach 0.
    """

    median: Estimate
    better: int
    worse: int


def gains_by_task(job_file: JobFile, silos: Sequence[str], comparison: Comparison) -> Gains:
    """Return the gains over local training of each silo-task pair, from the silos' own folders.

    Private to the silos: figures by task never leave them.

    Raises:
        JobError: a silo lacks figures by task of a local run and another run with the same seed.
        DataError: a silo's file of private tasks cannot be read.
    """
    found: dict[str, list[TaskGain]] = defaultdict(list)
    for silo in silos:
        places = silo_places(job_file.silo(silo), str(job_file.folder))
        own = load_private_tasks(job_file.job.silo(silo), job_file.job, places.private_tasks)
        tasks = {**(job_file.job.data.tasks or {}), **own}
        trials = [*comparison.trials, *(t for t in comparison.alone if t.silo == silo)]
        of_silo = _of_silo(silo, places.state / "runs", trials, tasks)
        if not of_silo:
            raise JobError(
                f"silo {silo!r} lacks figures by task of a local run and another run with the same "
                "seed",
                "Jobs with tasks leave them on the silo's machine: run blindsum baseline local "
                "there.",
            )
        for name, gains in of_silo.items():
            found[name] += gains
    return found


def middle(gains: Sequence[TaskGain], figure: str) -> Middle | None:
    """Return a figure's gains in the middle; None if no pair has the figure."""
    own = [one.gains[figure] for one in gains if figure in one.gains]
    if not own:
        return None
    clear = [one.mean for one in own if one.interval and not one.within_noise]
    return Middle(
        median=median([one.mean for one in own]),
        better=sum(mean > 0 for mean in clear),
        worse=sum(mean < 0 for mean in clear),
    )


def _of_silo(
    silo: str, folder: Path, trials: Sequence[Trial], tasks: Tasks
) -> dict[str, list[TaskGain]]:
    pairs: dict[str, dict[str, list[tuple[Figures, Figures]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for trial in trials:
        alike = [t for t in trials if t.model == trial.model and (folder / t.name).exists()]
        base = bases_of(alike, trial.epsilon).get(trial.seed)
        if trial.arm == "local" or base is None:
            continue
        before = _by_task(folder / base.name, trial.seed)
        for task, figures in _by_task(folder / trial.name, trial.seed).items():
            if task in before:
                pairs[label(trial.group)][task].append((figures, before[task]))
    return {
        name: [
            TaskGain(silo, task, (tasks[task].group or "") if task in tasks else "", _gains(of))
            for task, of in by_task.items()
        ]
        for name, by_task in pairs.items()
    }


def _gains(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, Estimate]:
    found = {}
    for figure in FIGURES:
        both = [(ours[figure], base[figure]) for ours, base in pairs if figure in {*ours} & {*base}]
        if both:
            found[figure] = difference(*zip(*both, strict=True))
    return found


def _by_task(folder: Path, seed: str) -> dict[str, Figures]:
    try:
        with (folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    return {
        row["task"]: {name: _scored(row, name, seed) for name in FIGURES if row.get(name)}
        for row in rows
    }


def _scored(row: Mapping[str, str], figure: str, seed: str) -> Scored:
    """Return a figure of which more is better."""
    ends = [row.get(f"{figure}_{end}") for end in ("low", "high")]
    low, high = (float(end) if end else None for end in ends)
    interval = None if low is None or high is None else Interval(low, high)
    value = float(row[figure])
    if figure not in SMALLER_IS_BETTER:
        return Scored(value, seed, interval)
    return Scored(-value, seed, Interval(-interval.high, -interval.low) if interval else None)

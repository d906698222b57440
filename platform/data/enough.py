"""Whether a task can be scored on held-out records, which is known before the first round."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.records import Labels, StoredLabels
from blindsum.platform.job.labels_section import Task, Tasks

LEAST = 5
"""A task is scored with so many held-out records of each class, or so many values."""

NOTHING_TO_SCORE = (
    f"no shared task has {LEAST} held-out records of each class, or {LEAST} exact values: nothing "
    "here counts for the run's AUROC or R2. Hold out more records (data.folds), or give this silo "
    "more labels"
)
"""Tells a bit about a silo's labels."""


def nothing_to_score(labels: StoredLabels, tasks: Tasks) -> tuple[str, ...]:
    """Return NOTHING_TO_SCORE if there are tasks, and none can be scored on held-out records with
    those labels, of the tasks and perhaps of others."""
    if not isinstance(labels, TaskLabels):
        return ()
    of_tasks = zip(tasks.values(), labels.by_task(), strict=False)
    scored = any(has_enough(known, task) for task, known in of_tasks)
    return () if scored or not tasks else (NOTHING_TO_SCORE,)


def has_enough(labels: Labels, task: Task) -> bool:
    """Return whether a task can be scored on records with those labels, float [records, 2]."""
    true = labels[exactly_known(labels), 0]
    if task.kind == "regression":
        return len(true) >= LEAST and bool(true.std() > 0)
    return bool(min((true == 1).sum(), (true == 0).sum()) >= LEAST)


def exactly_known(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which records have a label that is not only a bound, [records]."""
    known: npt.NDArray[Any] = ~np.isnan(labels[:, 0]) & (labels[:, 1] == 0)
    return known

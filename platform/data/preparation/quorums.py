"""Tasks with too few labels are dropped. A quorum counts labels, never what is in a structure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from blindsum.platform.data.preparation.recipe import AssayTask, Quorum
from blindsum.platform.data.preparation.report import Report

BELOW_QUORUM = "of a task below its quorum"


def above_quorum(
    found: pd.DataFrame,
    tasks: Mapping[str, AssayTask],
    shared: Collection[str],
    quorum: Quorum,
    report: Report,
) -> pd.DataFrame:
    """Return the labels of the tasks that meet their quorum, and report the others.

    Args:
        found: columns task (categories), value and side.
    """
    counts = _counts(found)
    below = [str(n) for n, row in counts.iterrows() if _few(tasks[str(n)], row, quorum)]
    for name in below:
        left = "shared: left empty" if name in shared else "own"
        report.dropped_tasks[f"below quorum, {left}"] += 1
    gone = found["task"].isin(below)
    report.dropped_measurements[BELOW_QUORUM] += int(gone.sum())
    return found[~gone].reset_index(drop=True)


def _counts(found: pd.DataFrame) -> pd.DataFrame:
    """Return each task's records, positives, exact values and their standard deviation."""
    task, exact = found["task"], found["side"] == 0
    grouped = found.groupby("task", observed=True)["value"]
    return pd.DataFrame(
        {
            "records": grouped.size(),
            "positive": (found["value"] == 1).groupby(task, observed=True).sum(),
            "exact": exact.groupby(task, observed=True).sum(),
            "deviation": found["value"].where(exact).groupby(task, observed=True).std(ddof=0),
        }
    )


def _few(task: AssayTask, row: pd.Series, quorum: Quorum) -> bool:
    needed = quorum.of(task.group)
    if task.kind == "binary":
        positive, negative = row["positive"], row["records"] - row["positive"]
        return bool(
            positive < needed.least_positives
            or negative < needed.least_negatives
            or row["records"] < needed.records
        )
    spread = np.nan_to_num(row["deviation"])
    return bool(
        row["records"] < needed.values
        or row["exact"] < needed.uncensored
        or spread < needed.deviation
    )


def with_divided_weights(
    own: Mapping[str, AssayTask], of_assay: Mapping[str, Collection[str]]
) -> dict[str, AssayTask]:
    """Return the silo's own tasks with their weights divided among the tasks of their assay, so
    that an assay with five thresholds counts as much as one with a single threshold.

    Args:
        own: tasks that meet their quorum.
        of_assay: the tasks that each assay feeds. A task of several assays counts with the one that
            feeds most.
    """
    most = dict.fromkeys(own, 1)
    for names in of_assay.values():
        there = [name for name in names if name in own]
        for name in there:
            alike = sum(own[other].kind == own[name].kind for other in there)
            most[name] = max(most[name], alike)
    return {
        name: task.model_copy(update={"weight": task.weight / most[name]})
        for name, task in own.items()
    }

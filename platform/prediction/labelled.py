"""The labels that a user has for some records, read with the contract of a released model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from blindsum.platform.data.columns import Column, require
from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.labels import class_labels, target_column
from blindsum.platform.data.rejected_rows import Rejected, said_of
from blindsum.platform.data.task_labels import task_columns, task_labels
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.evaluation.reliability import Classes, Reals
from blindsum.platform.job.labels_section import Task, Tasks
from blindsum.platform.prediction.calibration import Calibrated, Calibration, calibrate, why_not
from blindsum.platform.prediction.released import Terms

_MOST_ROWS = 10
"""The most rows that a message names."""

NO_LABEL = -1


def label_columns(terms: Terms) -> list[Column]:
    """Return the columns of labels from which probabilities can be calibrated.

    Raises:
        JobError: the model predicts no class.
    """
    if terms.target:
        return [target_column(terms.target)]
    binary = {name: task for name, task in _tasks(terms).items() if task.kind == "binary"}
    if not binary:
        raise JobError(
            f"{terms.run} predicts numbers, which have no probabilities to calibrate",
            "Leave out the labelled table.",
        )
    return task_columns(binary)


def labels_of(table: pa.Table, terms: Terms, path: Path) -> dict[str, Classes]:
    """Return each record's class by target or binary task, int64 [records], NO_LABEL where it has
    none. Tasks whose column the table does not have are left out.

    Raises:
        JobError: as `label_columns`.
        DataError: no column of labels is there, or one is there twice, has another type, or holds
            values that stand for no class.
    """
    columns = label_columns(terms)
    there = [one for one in columns if one.name in table.column_names]
    if not there:
        names = ", ".join(one.name for one in columns)
        raise DataError(
            f"{path.name} has no column of labels", f"It needs one of this name: {names}."
        )
    table = plain(table, {one.name: one.type.expected for one in there}, path)
    require(table, there, path)
    if terms.target:
        found = class_labels(table, terms.target, path, drop_unlabelled=True)
        _refuse(found.rejected, path)
        (missing,) = (one.rows for one in found.rejected if one.then == "drop")
        return {terms.target.column: np.where(missing, NO_LABEL, found.labels)}
    tasks = _tasks(terms)
    found = task_labels(table, {one.name: tasks[one.name] for one in there}, path)
    _refuse(found.rejected, path)
    values = np.nan_to_num(found.labels[:, 0], nan=NO_LABEL).astype(np.int64)
    return {one.name: values[:, i] for i, one in enumerate(there)}


def calibrated(outputs: Reals, labels: Mapping[str, Classes], terms: Terms) -> Calibrated:
    """Calibrate what has enough labels.

    Args:
        outputs: the model's for the labelled records, float64 [records, outputs]; NaN for a record
            that cannot be predicted.
        labels: as `labels_of` returns them.

    Raises:
        DataError: nothing has enough labels.
    """
    of: dict[str, Calibration] = {}
    left: dict[str, str] = {}
    for name, logits in _logits(outputs, terms):
        true = labels.get(name)
        if logits is None:
            left[name] = "predicts a number, which has no probability"
        elif true is None:
            left[name] = "has no column in the labelled table"
        else:
            known = (true != NO_LABEL) & np.isfinite(logits).all(1)
            reason = why_not(logits[known], true[known])
            if reason:
                left[name] = reason
            else:
                of[name] = calibrate(logits[known], true[known])
    if not of:
        said = "; ".join(f"{name} {reason}" for name, reason in left.items())
        raise DataError(
            f"the labelled table calibrates nothing: {said}",
            "Give more labelled records that can be predicted.",
        )
    return Calibrated(of=of, left=left)


def _tasks(terms: Terms) -> Tasks:
    return {**(terms.tasks or {}), **(terms.own_tasks or {})}


def _logits(outputs: Reals, terms: Terms) -> Iterator[tuple[str, Reals | None]]:
    """Yield the logits of the target, or of each task, float64 [records, classes]; None for a
    number."""
    if terms.target:
        yield terms.target.column, outputs
    for i, (name, task) in enumerate(_tasks(terms).items()):
        yield name, _of_task(outputs[:, i], task)


def _of_task(output: Reals, task: Task) -> Reals | None:
    return np.stack([np.zeros_like(output), output], 1) if task.kind == "binary" else None


def _refuse(rejected: list[Rejected], path: Path) -> None:
    """Raise an error for values that stand for no class. The rows are for whoever has the table."""
    wrong = [one for one in rejected if one.then == "refuse" and one.rows.any()]
    if not wrong:
        return
    rows = np.flatnonzero(np.logical_or.reduce([one.rows for one in wrong])) + 1
    more = ", ..." if len(rows) > _MOST_ROWS else ""
    said = "; ".join(said_of([one.column], ("has", "have"), one.fault) for one in wrong)
    raise DataError(
        f"{path.name}: {said}",
        "Correct them, or leave them empty.",
        at_silo=f"rows {', '.join(map(str, rows[:_MOST_ROWS]))}{more}",
    )

"""Labels of a silo's records: one column of classes, or many tasks with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import (
    INTEGER,
    NUMBER_OR_EMPTY,
    TEXT,
    TEXT_OR_EMPTY,
    Column,
)
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Target, Tasks

Labels = npt.NDArray[Any]

MAX_SCALED = 100.0
"""A regression label further than this from its center, in units of its scale, is refused: the unit
is probably wrong."""

SIDES = {"<": -1.0, "=": 0.0, ">": 1.0, "": 0.0}


def target_column(target: Target) -> Column:
    """Return the column of classes. It may have no gaps."""
    return Column(name=target.column, type=TEXT if isinstance(target.classes[0], str) else INTEGER)


def class_labels(table: pa.Table, target: Target, path: Path) -> Labels:
    """Return each record's position among the target's classes, int64 [records].

    Raises:
        DataError: a value is not one of the classes.
    """
    column = table.column(target.column).combine_chunks()
    kind = pa.string() if isinstance(target.classes[0], str) else pa.int64()
    try:
        indices = pc.index_in(column.cast(kind), value_set=pa.array(target.classes, kind))
    except (pa.ArrowException, OverflowError):
        raise DataError(
            f"{path.name}: column '{target.column}' or data.target.classes has integers beyond "
            "64 bits",
            "Use smaller integers, or text.",
        ) from None
    if indices.null_count:
        raise DataError(
            f"{path.name}: column '{target.column}' has values that are not in "
            f"data.target.classes ({', '.join(map(str, target.classes))})",
            "Correct those records, or add their class to the job.",
        )
    labels: Labels = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return labels


def task_columns(tasks: Tasks) -> list[Column]:
    """Return the columns of labels and of qualifiers. They may have gaps."""
    qualifiers = [task.qualifier for task in tasks.values() if task.qualifier]
    return [
        *(Column(name=name, type=NUMBER_OR_EMPTY) for name in tasks),
        *(Column(name=name, type=TEXT_OR_EMPTY) for name in qualifiers),
    ]


def task_labels(table: pa.Table, tasks: Tasks, path: Path) -> Labels:
    """Return the labels of many tasks, float32 [records, 2, tasks].

    The first row of a record has the scaled values, NaN where missing. The second has -1, 0 or 1
    where the true value lies below, at or above them.

    Raises:
        DataError: a binary column has values other than 0, 1 and gaps, a number is infinite or far
            out of range, or a qualifier is unknown.
    """
    labels = np.zeros((table.num_rows, 2, len(tasks)), np.float32)
    for i, (name, task) in enumerate(tasks.items()):
        try:
            values = table.column(name).cast(pa.float64()).to_numpy().astype(np.float64)
        except pa.ArrowException:
            raise DataError(
                f"{path.name}: column '{name}' has integers beyond 2^53, which a float cannot "
                "represent",
                "A label of that size is usually an identifier: name another column.",
            ) from None
        known = values[~np.isnan(values)]
        if task.kind == "binary":
            if not np.isin(known, (0.0, 1.0)).all():
                raise DataError(
                    f"{path.name}: column '{name}' is a binary task and has values other than 0 "
                    "and 1",
                    "Correct them, leave them empty, or set kind: regression.",
                )
            labels[:, 0, i] = values
            continue
        scaled = (values - task.center) / task.scale
        if (np.abs(scaled[~np.isnan(values)]) > MAX_SCALED).any():
            raise DataError(
                f"{path.name}: column '{name}' has values that are infinite or more than "
                f"{MAX_SCALED:g} times the task's scale from its center",
                "Check the units, or the task's center and scale.",
            )
        labels[:, 0, i] = scaled
        if task.qualifier:
            labels[:, 1, i] = _sides(table, task.qualifier, path)
    return labels


def require_labelled(labels: Labels, path: Path) -> None:
    """Raise DataError if a record has no label of any task."""
    if np.isnan(labels[:, 0]).all(1).any():
        raise DataError(
            f"{path.name} has records without a label of any task", "Leave those records out."
        )


def _sides(table: pa.Table, column: str, path: Path) -> npt.NDArray[np.float32]:
    said = [text or "" for text in table.column(column).to_pylist()]
    if set(said) - set(SIDES):
        raise DataError(
            f"{path.name}: column '{column}' has qualifiers other than <, = and >",
            "Correct them, or leave them empty.",
        )
    return np.array([SIDES[text] for text in said], np.float32)

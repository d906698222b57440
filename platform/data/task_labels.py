"""Labels of many tasks with gaps, of which each record has some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.canonical import doubles
from blindsum.platform.data.columns import (
    LABEL_TEXT_OR_EMPTY,
    NUMBER_OR_EMPTY,
    TEXT_OR_EMPTY,
    Column,
    as_held,
)
from blindsum.platform.data.labels import UNLABELLED_MEND, Labelled, Rows, is_missing
from blindsum.platform.data.records import Labels
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Task, Tasks, as_written

MAX_SCALED = 100.0
"""A regression label further than this from its center, in units of its scale, is refused: the unit
is probably wrong."""

SIDES = {"<": -1.0, "=": 0.0, ">": 1.0, "": 0.0}

_EXACT = 2.0**53
"""Integers above it have no exact double."""

Numbers = npt.NDArray[np.float64]


def task_columns(tasks: Tasks) -> list[Column]:
    """Return the columns of labels and of qualifiers. They may have gaps."""
    qualifiers = [task.qualifier for task in tasks.values() if task.qualifier]
    return [
        *(
            Column(name=name, type=LABEL_TEXT_OR_EMPTY if task.is_text else NUMBER_OR_EMPTY)
            for name, task in tasks.items()
        ),
        *(Column(name=name, type=TEXT_OR_EMPTY) for name in qualifiers),
    ]


def task_labels(
    table: pa.Table, tasks: Tasks, path: Path, drop_qualifiers: bool = False
) -> Labelled:
    """Return the labels of many tasks, float32 [records, 2, tasks].

    The first row of a record has the scaled values, NaN where missing. The second has -1, 0 or 1
    where the true value lies below, at or above them. Rejected are values of a binary column that
    stand for nothing, numbers that are infinite or far out of range, and unknown qualifiers.

    Args:
        drop_qualifiers: leave out labels with an unknown qualifier, rather than reject their rows.

    Raises:
        DataError: a column has integers that a float cannot represent.
    """
    labels = np.zeros((table.num_rows, 2, len(tasks)), np.float32)
    rejected, left_out = list[Rejected](), np.zeros(table.num_rows, np.int64)
    for some in (
        _texts(table, {n: t for n, t in tasks.items() if t.is_text}),
        _classes(
            table, {n: t for n, t in tasks.items() if t.kind == "binary" and not t.is_text}, path
        ),
        _measured(table, {n: t for n, t in tasks.items() if t.kind == "regression"}, path),
    ):
        at = [i for i, name in enumerate(tasks) if name in some.names]
        labels[:, 0, at] = some.values
        rejected += some.rejected
    for i, (name, task) in enumerate(tasks.items()):
        if not task.qualifier:
            continue
        sides, unknown = _sides(table, task.qualifier)
        unknown &= ~np.isnan(labels[:, 0, i])
        labels[:, 1, i] = sides
        if drop_qualifiers:
            labels[unknown, :, i] = np.nan, 0.0
            left_out += unknown
        rejected.append(_of_no_side(task.qualifier, unknown, drop_qualifiers))
    return Labelled(labels, rejected, left_out)


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The values of some tasks side by side, [records, tasks], and the rows that break a rule."""

    names: Tasks
    values: Numbers
    rejected: list[Rejected]


def _texts(table: pa.Table, tasks: Tasks) -> _Values:
    """Return the labels of binary tasks whose values are texts."""
    values, rejected = np.full((table.num_rows, len(tasks)), np.nan), list[Rejected]()
    for i, (name, task) in enumerate(tasks.items()):
        column = table.column(name).combine_chunks().cast(pa.string())
        plain = np.array(column.to_pylist(), object)
        values[plain == task.positive, i], values[plain == task.negative, i] = 1.0, 0.0
        wrong = np.isnan(values[:, i]) & ~is_missing(column, task.missing)
        rejected.append(_neither(name, task, wrong))
    return _Values(names=tasks, values=values, rejected=rejected)


def _classes(table: pa.Table, tasks: Tasks, path: Path) -> _Values:
    """Return the labels of binary tasks whose values are numbers: 1 for positives, 0 for negatives,
    NaN where missing."""
    numbers = _numbers(table, tasks, path)
    positive, negative = (
        np.array([float(getattr(task, sign)) for task in tasks.values()])
        for sign in ("positive", "negative")
    )
    gap = np.array([np.nan if t.missing is None else float(t.missing) for t in tasks.values()])
    values = np.where(numbers == negative, 0.0, np.nan)
    values[numbers == positive] = 1.0
    wrong = np.isnan(values) & ~np.isnan(numbers) & (numbers != gap)
    rejected = [_neither(n, t, rows) for n, t, rows in _at_fault(tasks, wrong)]
    return _Values(names=tasks, values=values, rejected=rejected)


def _measured(table: pa.Table, tasks: Tasks, path: Path) -> _Values:
    """Return scaled numbers, NaN where missing; and those that are too large."""
    numbers = _numbers(table, tasks, path)
    gap = np.array(
        [
            np.nan
            if task.missing is None
            else as_held([float(task.missing)], table.schema.field(name).type)[0]
            for name, task in tasks.items()
        ]
    )
    center, scale = (np.array([getattr(t, n) for t in tasks.values()]) for n in ("center", "scale"))
    with np.errstate(over="ignore"):
        values = (np.where(numbers == gap, np.nan, numbers) - center) / scale
        large = np.abs(values) > MAX_SCALED  # false for NaN
    rejected = [
        Rejected(
            rows=rows,
            column=name,
            fault=f"values that are infinite or more than {MAX_SCALED:g} times the task's scale "
            "from its center",
            mend="Check the units, or the task's center and scale.",
            reason=f"infinite, or more than {MAX_SCALED:g} times the scale from the center",
        )
        for name, _, rows in _at_fault(tasks, large)
    ]
    return _Values(names=tasks, values=np.where(large, np.nan, values), rejected=rejected)


def _numbers(table: pa.Table, tasks: Tasks, path: Path) -> Numbers:
    names = list(tasks)
    found = doubles(table, names)
    for i, name in enumerate(names):
        if (
            pa.types.is_integer(table.schema.field(name).type)
            and (abs(found[:, i]) >= _EXACT).any()
        ):
            try:
                table.column(name).cast(pa.float64())
            except pa.ArrowException:
                raise DataError(
                    f"{path.name}: column '{name}' has integers beyond 2^53, which a float cannot "
                    "represent",
                    "A label of that size is usually an identifier: name another column.",
                ) from None
    return found


def _at_fault(tasks: Tasks, wrong: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Task, Rows]]:
    """Yield the tasks that have wrong values, bool [records, tasks], with their rows."""
    named = list(tasks.items())
    for i in np.flatnonzero(wrong.any(axis=0)):
        yield *named[i], wrong[:, i]


def _neither(name: str, task: Task, rows: Rows) -> Rejected:
    positive, negative = as_written(task.positive), as_written(task.negative)
    return Rejected(
        rows=rows,
        column=name,
        fault=f"values other than {negative} and {positive}, though its kind is binary",
        mend="Correct them, leave them empty, or say what stands for what (positive, negative and "
        "missing of the task); for numbers, set kind: regression.",
        reason=f"neither {negative} nor {positive}",
    )


def unlabelled(labels: Labels, drop: bool) -> Rejected:
    """Return the records that have no label of any task.

    Args:
        drop: whether to train without them.
    """
    return Rejected(
        rows=np.asarray(np.isnan(labels[:, 0]).all(1)),
        column="",
        fault="records without a label of any task",
        mend=UNLABELLED_MEND,
        reason="no label of any task",
        then="drop" if drop else "refuse",
    )


def _sides(table: pa.Table, column: str) -> tuple[npt.NDArray[np.float32], Rows]:
    said = [(text or "").strip() for text in table.column(column).to_pylist()]
    sides = np.array([SIDES.get(text, 0.0) for text in said], np.float32)
    return sides, np.array([text not in SIDES for text in said], np.bool_)


def _of_no_side(column: str, rows: Rows, drop: bool) -> Rejected:
    return Rejected(
        rows=rows,
        column=column,
        fault="qualifiers other than <, = and >",
        mend="Correct them, leave them empty, or set data.qualifiers: drop to train without those "
        "labels.",
        reason="a qualifier other than <, = and >; the label was left out" if drop else "",
        then="list" if drop else "refuse",
    )

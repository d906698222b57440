"""Labels of a silo's records: one column of classes, or many tasks with gaps.

The job says which values of a column stand for what. Booleans count as 0 and 1, and numbers without
a fraction as integers, so that a column means the same whichever program wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import (
    LABEL_NUMBER,
    LABEL_TEXT,
    LABEL_TEXT_OR_EMPTY,
    NUMBER_OR_EMPTY,
    TEXT_OR_EMPTY,
    Column,
    as_held,
)
from blindsum.platform.data.records import Labels
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Target, Task, Tasks, as_written

Rows = npt.NDArray[np.bool_]

MAX_SCALED = 100.0
"""A regression label further than this from its center, in units of its scale, is refused: the unit
is probably wrong."""

SIDES = {"<": -1.0, "=": 0.0, ">": 1.0, "": 0.0}

UNLABELLED_MEND = "Leave those records out, or set data.unlabelled: drop to train without them."


@dataclass(frozen=True)
class Labelled:
    """The labels of all records, and the rows that break a rule. Private to the silo.

    `left_out`, int64 [records], counts a record's labels that were left out.
    """

    labels: Labels
    rejected: list[Rejected]
    left_out: npt.NDArray[np.int64]

    def __repr__(self) -> str:
        return "Labelled(private)"


def target_column(target: Target) -> Column:
    """Return the column of classes."""
    of_text = isinstance(target.classes[0], str)
    return Column(name=target.column, type=LABEL_TEXT if of_text else LABEL_NUMBER)


def class_labels(table: pa.Table, target: Target, path: Path, drop_unlabelled: bool) -> Labelled:
    """Return each record's position among the target's classes, int64 [records].

    The position is 0 where a record is rejected: it has no label, or a value that is not a class.

    Raises:
        DataError: the column or the classes hold integers that cannot be compared.
    """
    column = table.column(target.column).combine_chunks()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    of_text = isinstance(target.classes[0], str)
    kind = pa.float64() if pa.types.is_floating(column.type) else pa.int64()
    kind = pa.string() if of_text else kind
    classes = [c if isinstance(c, str) else int(c) for c in target.classes]
    try:
        column = column.cast(kind)
        indices = pc.index_in(column, value_set=pa.array(classes, kind))
        missing = _missing(column, target.missing)
    except (pa.ArrowException, OverflowError):
        raise DataError(
            f"{path.name}: column '{target.column}' or data.target.classes has integers beyond "
            "64 bits (beyond 2^53 if the column holds floats)",
            "Use smaller integers, or text.",
        ) from None
    found = indices.to_numpy(zero_copy_only=False).astype(np.float64)
    missing &= np.isnan(found)  # an empty text is a label if it is a class
    rejected = [
        Rejected(
            rows=missing,
            column=target.column,
            fault="missing labels",
            mend=UNLABELLED_MEND,
            then="drop" if drop_unlabelled else "refuse",
        ),
        *_of_no_class(target, column, np.isnan(found) & ~missing),
    ]
    labels = np.nan_to_num(found).astype(np.int64)
    return Labelled(labels, rejected, np.zeros(len(labels), np.int64))


def _missing(column: pa.Array, stands_for_none: Any) -> Rows:
    """Return which labels are missing: null, NaN, empty text, or the value that the job names."""
    missing = pc.is_null(column, nan_is_null=True)
    empty = [] if stands_for_none is None else [stands_for_none]
    if pa.types.is_string(column.type):
        empty.append("")
    elif pa.types.is_integer(column.type):
        empty = [int(value) for value in empty if value == int(value)]
    for value in empty:
        equal = pc.equal(column, pa.scalar(value, column.type))
        missing = pc.or_(missing, equal.fill_null(False))
    return np.asarray(missing.to_numpy(zero_copy_only=False), np.bool_)


def _of_no_class(target: Target, column: pa.Array, rows: Rows) -> Iterator[Rejected]:
    """Yield the rows whose value is not a class; those that differ in case or blanks apart."""
    said = Rejected(
        rows=rows,
        column=target.column,
        fault="values that are not in data.target.classes "
        f"({', '.join(map(as_written, target.classes))})",
        mend="Correct those records, or add their class to the job.",
        reason="not one of data.target.classes",
    )
    if not rows.any() or not isinstance(target.classes[0], str):
        yield said
        return
    alike = np.array([text.strip().casefold() if text else "" for text in column.to_pylist()])
    left = rows
    for one in map(str, target.classes):
        close = left & (alike == one.strip().casefold())
        if close.any():
            left = left & ~close
            reason = f"not one of data.target.classes, but '{one}' but for case or blanks"
            yield Rejected(**{**vars(said), "rows": close, "reason": reason})
    yield Rejected(**{**vars(said), "rows": left})


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
    rejected, left_out = [], np.zeros(table.num_rows, np.int64)
    for i, (name, task) in enumerate(tasks.items()):
        column = table.column(name).combine_chunks()
        if task.kind == "binary":
            values, wrong = _binary(column, name, task, path)
        else:
            values, wrong = _scaled(column, name, task, path)
        rejected.append(wrong)
        labels[:, 0, i] = values
        if task.qualifier:
            sides, unknown = _sides(table, task.qualifier)
            unknown &= ~np.isnan(values)
            labels[:, 1, i] = sides
            if drop_qualifiers:
                labels[unknown, :, i] = np.nan, 0.0
                left_out += unknown
            rejected.append(_of_no_side(task.qualifier, unknown, drop_qualifiers))
    return Labelled(labels, rejected, left_out)


def _numbers(column: pa.Array, name: str, path: Path) -> npt.NDArray[np.float64]:
    try:
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise DataError(
            f"{path.name}: column '{name}' has integers beyond 2^53, which a float cannot "
            "represent",
            "A label of that size is usually an identifier: name another column.",
        ) from None
    return np.asarray(numbers, np.float64)


def _binary(
    column: pa.Array, name: str, task: Task, path: Path
) -> tuple[npt.NDArray[np.float64], Rejected]:
    """Return 1 for positives, 0 for negatives, NaN for missing labels; and values of neither."""
    plain: Any
    if task.is_text:
        column = column.cast(pa.string())
        plain = np.array(column.to_pylist(), object)
    else:
        plain = _numbers(column, name, path)
        column = pa.array(plain)
    values = np.full(len(plain), np.nan)
    values[plain == task.positive], values[plain == task.negative] = 1.0, 0.0
    missing = _missing(column, task.missing)
    positive, negative = as_written(task.positive), as_written(task.negative)
    return values, Rejected(
        rows=np.isnan(values) & ~missing,
        column=name,
        fault=f"values other than {negative} and {positive}, though its kind is binary",
        mend="Correct them, leave them empty, or say what stands for what (positive, negative and "
        "missing of the task); for numbers, set kind: regression.",
        reason=f"neither {negative} nor {positive}",
    )


def _scaled(
    column: pa.Array, name: str, task: Task, path: Path
) -> tuple[npt.NDArray[np.float64], Rejected]:
    """Return scaled numbers, NaN where missing; and those that are too large."""
    numbers = _numbers(column, name, path)
    if task.missing is not None:
        gap = as_held([float(task.missing)], column.type)
        numbers = np.where(numbers == gap, np.nan, numbers)
    with np.errstate(over="ignore"):
        scaled: npt.NDArray[np.float64] = (numbers - task.center) / task.scale
        large: Rows = np.abs(scaled) > MAX_SCALED  # false for NaN
    return np.where(large, np.nan, scaled), Rejected(
        rows=large,
        column=name,
        fault=f"values that are infinite or more than {MAX_SCALED:g} times the task's scale from "
        "its center",
        mend="Check the units, or the task's center and scale.",
        reason=f"infinite, or more than {MAX_SCALED:g} times the scale from the center",
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

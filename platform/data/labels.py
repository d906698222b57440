"""Labels of a silo's records: one column of classes, or many tasks with gaps
(`blindsum.platform.data.task_labels`).

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
    Column,
)
from blindsum.platform.data.records import Labels
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Target, as_written

Rows = npt.NDArray[np.bool_]

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
        missing = is_missing(column, target.missing)
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


def is_missing(column: pa.Array, stands_for_none: Any) -> Rows:
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

"""Labels of which each record has few, as columns of a table: one for each task, mostly empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.preparation.recipe import SIDE

PART_BYTES = 256 * 2**20
"""About the memory of the labels of a part of a table."""

_OF_A_CLASS, _OF_A_NUMBER = 1, 4 + 4 + 1
"""Bytes of a label: a class, or a number and its side."""

_SIDES = np.array(["<", "=", ">"], object)


@dataclass(frozen=True)
class PlacedLabels:
    """Labels of some records: each one's record, the number of its task, its value, and -1, 0 or 1
    where the true value lies below, at or above it. Private to the silo."""

    records: npt.NDArray[np.integer[Any]]
    tasks: npt.NDArray[np.integer[Any]]
    values: npt.NDArray[np.floating[Any]]
    sides: npt.NDArray[np.number[Any]]

    def __repr__(self) -> str:
        return "PlacedLabels(private)"


def records_at_once(numeric: Mapping[str, bool]) -> int:
    """Return how many records' labels need PART_BYTES.

    Args:
        numeric: by task, whether it is one of regression.
    """
    of_record = sum(_OF_A_NUMBER if one else _OF_A_CLASS for one in numeric.values())
    return max(1, PART_BYTES // max(of_record, 256))


def label_columns(
    numeric: Mapping[str, bool], labels: PlacedLabels, records: int
) -> dict[str, pa.Array]:
    """Return a column for each task, and for each of regression a column of sides after it.

    Args:
        numeric: by task, in the order of the tasks' numbers, whether it is one of regression.
        labels: of records from 0 to `records`; a record has at most one of a task.
    """
    order = np.argsort(labels.tasks, kind="stable")
    ends = np.searchsorted(labels.tasks, np.arange(len(numeric) + 1), sorter=order)
    columns: dict[str, pa.Array] = {}
    for i, (name, is_number) in enumerate(numeric.items()):
        at = order[ends[i] : ends[i + 1]]
        rows = labels.records[at]
        dense = np.zeros(records, np.float32 if is_number else np.int8)
        dense[rows] = labels.values[at]
        missing = np.ones(records, np.bool_)
        missing[rows] = False
        columns[name] = pa.array(dense, mask=missing)
        if is_number:
            said = np.full(records, None, object)
            said[rows] = _SIDES[labels.sides[at].astype(np.int64) + 1]
            columns[name + SIDE] = pa.array(said, pa.string())
    return columns

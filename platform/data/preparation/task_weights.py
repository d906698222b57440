"""SparseChem's tables of tasks: weights by task, and names in a catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.preparation.faults import Faults
from blindsum.platform.data.reading import read_table

_EARLIER = {"weight": "training_weight"}
_TEXTS = ("task_id", "training_weight", "catalog_id")
_NOT_READ = ("aggregation_weight", "censored_weight", "task_type")


@dataclass(frozen=True)
class TaskWeights:
    """The weight of a task's loss, 0 to 1, and its name in a catalogue, empty if it has none."""

    weight: float = 1.0
    catalogue: str = ""


@dataclass(frozen=True)
class WeightTable:
    """The tasks in the order of their columns, and what was not read, in words."""

    tasks: list[TaskWeights]
    notes: list[str]


def read_weights(path: Path, tasks: int, faults: Faults) -> WeightTable:
    """Read a table of tasks, and note all that is wrong with it.

    Args:
        tasks: the number of columns of the matrix that it is for.

    Raises:
        DataError: the file cannot be read.
    """
    table = read_table(path, [*_TEXTS, *(f"{name}s" for name in _TEXTS), *_EARLIER])
    named = [_singular(name) for name in table.column_names]
    none = WeightTable([TaskWeights()] * tasks, [])
    if wrong := [name for name in ("task_id", "training_weight") if named.count(name) != 1]:
        faults.add(f"{path.name}: columns missing or there twice: {', '.join(wrong)}")
        return none
    table = table.rename_columns(named)
    ids, weights, names = (_column(table, name) for name in _TEXTS)
    found: dict[int, TaskWeights] = {}
    wrong_rows = list[int]()
    for number, (text, weight, name) in enumerate(zip(ids, weights, names, strict=True), 1):
        task, value = _number(text), _number(weight)
        known = task == math.floor(task) and 0 <= task < tasks and int(task) not in found
        if not known or not 0 <= value <= 1:
            wrong_rows.append(number)
        else:
            found[int(task)] = TaskWeights(value, name)
    faults.rows(
        path.name,
        wrong_rows,
        f"task_id is not one of 0 to {tasks - 1}, or there twice, or training_weight is not 0 to 1",
    )
    if not wrong_rows and len(found) < tasks:
        faults.add(f"{path.name} has {len(found):,} tasks, expected {tasks:,}: one for each column")
    if wrong_rows or len(found) < tasks:
        return none
    there = [name for name in _NOT_READ if name in named]
    notes = [f"{path.name}: not read: {', '.join(there)}"] if there else []
    return WeightTable([found[task] for task in range(tasks)], notes)


def _singular(name: str) -> str:
    """Return a column's name: SparseChem also reads its plural, and weight."""
    known = (*_TEXTS, *_NOT_READ)
    name = _EARLIER.get(name, name)
    return name.removesuffix("s") if name.removesuffix("s") in known else name


def _column(table: pa.Table, name: str) -> list[str]:
    if table.column_names.count(name) != 1:
        return [""] * table.num_rows
    try:
        texts = pc.cast(table[name], pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeError):
        texts = [None] * table.num_rows
    return [(text or "").strip() for text in texts]


def _number(text: str) -> float:
    """Return a number, -1 for what is none."""
    try:
        found = float(text)
    except ValueError:
        return -1.0
    return found if math.isfinite(found) else -1.0

"""The table of a silo's assays: which task each one feeds, and the settings of the silo's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.preparation.own_files import NUMBER, TEXT, OwnFiles
from blindsum.platform.data.preparation.recipe import AssayTask, Recipe, Sources, doubled
from blindsum.platform.errors import DataError


def read_assays(
    sources: Sources, recipe: Recipe, reading: OwnFiles
) -> tuple[dict[str, AssayTask], dict[str, list[str]]]:
    """Return the tasks in the recipe's order, then the silo's private ones; and for each assay, the
    tasks that use it.

    Raises:
        DataError: the table cannot be read or is wrong, or there is no task.
    """
    tasks = dict(recipe.tasks)
    if sources.assays is None:
        if not tasks:
            raise DataError(
                "there is no task", "Name shared tasks in the recipe, or give the sources assays."
            )
        return tasks, {name: [name] for name in tasks}
    path = reading.path(sources.assays)
    table = _table(path, reading)
    of_assay: dict[str, list[str]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        given = {k: v for k, v in row.items() if not (pd.isna(v) or v == "")}
        assay = str(given.pop("assay", "")).strip()
        name = str(given.pop("task", "")).strip() or assay
        if not assay or not name or name in of_assay.get(assay, ()):
            raise DataError(
                f"{path.name}, row {number}: no assay, or a duplicate of an earlier row",
                "Name an assay, and each pair of assay and task only once.",
            )
        of_assay.setdefault(assay, []).append(name)
        if name in recipe.tasks:
            if given:
                raise DataError(
                    f"{path.name}, row {number}: a shared task takes its settings from the recipe",
                    "Leave the row's other columns empty.",
                )
            continue
        task = _task(given, f"{path.name}, row {number}")
        if tasks.setdefault(name, task) != task:
            raise DataError(
                f"{path.name}, row {number}: the task has other settings in an earlier row",
                "Give a task the same settings in all of its rows.",
            )
    if doubled(tasks, recipe):
        raise DataError(
            f"{path.name}: a task has the name of another column of the prepared table",
            "Rename the task.",
        )
    return tasks, of_assay


def _table(path: Path, reading: OwnFiles) -> pa.Table:
    """Return the table of assays. Raises DataError as `read_assays`."""
    texts = ("assay", "task", "kind", "unit", "transform", "direction", "group")
    table = reading.table(path, texts)
    expected = {name: TEXT if name in texts else NUMBER for name in table.column_names}
    table = plain(table, expected, path)
    settings, names = set(AssayTask.model_fields), table.column_names
    if not table.num_rows:
        raise DataError(f"{path.name} has no rows", "Name assays, or leave the assay table out.")
    unknown = set(names) - {"assay", "task", *settings}
    if unknown or names.count("assay") != 1 or len(set(names)) < len(names):
        if unknown:
            wrong = f"unexpected columns ({len(unknown)} of {len(names)})"
        else:
            wrong = "duplicate columns" if "assay" in names else "no column 'assay'"
        raise DataError(
            f"{path.name} has {wrong}",
            f"The allowed columns are assay, task, {', '.join(sorted(settings))}, each at most "
            "once; assay is required.",
        )
    return table


def _task(given: Mapping[str, Any], where: str) -> AssayTask:
    numbers = {k: float(v) if isinstance(v, int) else v for k, v in given.items()}
    try:
        return AssayTask.model_validate(numbers)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or "the task"
        message = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"{where}: {field}: {message}") from None

"""A silo's own tables, read into one form: compounds, measurements, tasks.

Messages name files and columns (of a wide table, columns are assays), and never a compound or a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from blindsum.platform.data import read_table
from blindsum.platform.errors import DataError
from blindsum.platform.labels import SIDES
from blindsum.platform.paths import resolve
from blindsum.platform.preparation.recipe import AssayTask, Recipe, Sources, Wide, doubled

Dropped = Counter[str]
"""How many were dropped, by reason."""

TEXT, WHOLE, NUMBER = "text", "text or whole numbers", "numbers"


@dataclass(frozen=True)
class Tables:
    """`compounds`: columns compound, smiles. `measurements`: compound, assay, value (float64, NaN where
    missing), side (-1, 0, 1), inclusive (of <= and >=). `tasks`: by name; `of_assay`: which tasks an assay feeds. Private to the silo.
    """

    compounds: pd.DataFrame
    measurements: pd.DataFrame
    tasks: dict[str, AssayTask]
    of_assay: dict[str, list[str]]

    def __repr__(self) -> str:
        return "Tables(private)"


def read_tables(sources: Sources, recipe: Recipe, folder: Path) -> Tables:
    """Read what the sources name.

    Raises:
        DataError: a file cannot be read, a column is missing or of another kind, or the assay table is
            wrong.
    """
    assays = _assays(sources, recipe, folder)
    if sources.wide is not None:
        compounds, measurements = _wide(sources.wide, folder, assays[1])
    else:
        compounds, measurements = _long(sources, folder)
    if not len(compounds):
        raise DataError("the structure table has no rows", "Check compounds.file.")
    return Tables(compounds, measurements, *assays)


def _long(sources: Sources, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if sources.compounds is None or sources.activities is None:
        raise DataError("the sources name no tables", "Give compounds and activities, or wide.")
    said, measured = sources.compounds, sources.activities
    path = resolve(said.file, str(folder))
    table = _columns(path, {said.compound: WHOLE, said.smiles: TEXT})
    compounds = pd.DataFrame(
        {"compound": _text(table[said.compound]), "smiles": _text(table[said.smiles])}
    )
    path = resolve(measured.file, str(folder))
    wanted = {measured.compound: WHOLE, measured.assay: WHOLE, measured.value: NUMBER}
    if measured.qualifier:
        wanted[measured.qualifier] = TEXT
    table = _columns(path, wanted)
    side = table[measured.qualifier] if measured.qualifier else None
    measurements = pd.DataFrame(
        {
            "compound": _text(table[measured.compound]), "assay": _text(table[measured.assay]),
            "value": _numbers(table[measured.value]), **_sides(side, len(table), path),
        }
    )  # fmt: skip
    return compounds, measurements


def _wide(
    said: Wide, folder: Path, of_assay: dict[str, list[str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = resolve(said.file, str(folder))
    wanted = {said.smiles: TEXT, **({said.compound: WHOLE} if said.compound else {})}
    wanted |= dict.fromkeys(of_assay, NUMBER)
    unknown = set(said.qualifiers) - set(of_assay)
    if unknown:
        raise DataError("wide.qualifiers names assays that are not among the columns used")
    wanted |= dict.fromkeys(said.qualifiers.values(), TEXT)
    table = _columns(path, wanted)
    rows = np.arange(len(table)).astype(str)
    name = _text(table[said.compound]) if said.compound else rows
    # Rows are told apart by their number: a compound may stand in several.
    compounds = pd.DataFrame({"compound": rows, "smiles": _text(table[said.smiles]), "name": name})
    parts = []
    for assay in of_assay:
        side = table[said.qualifiers[assay]] if assay in said.qualifiers else None
        part = pd.DataFrame(
            {"compound": rows, "value": _numbers(table[assay]), **_sides(side, len(table), path)}
        )
        part.insert(1, "assay", assay)
        parts.append(part[part["value"].notna()])
    return compounds, pd.concat(parts, ignore_index=True)


def _assays(
    sources: Sources, recipe: Recipe, folder: Path
) -> tuple[dict[str, AssayTask], dict[str, list[str]]]:
    """Tasks in the recipe's order, then the silo's own; and by assay, which of them it feeds."""
    tasks = dict(recipe.tasks)
    if sources.assays is None:
        if not tasks:
            raise DataError("there is no task", "Name shared ones in the recipe, or give assays.")
        return tasks, {name: [name] for name in tasks}
    path = resolve(sources.assays, str(folder))
    table = read_table(path, ("assay", "task", "kind"))
    settings, names = set(AssayTask.model_fields), table.column_names
    if not table.num_rows:
        raise DataError(f"{path.name} has no rows", "Name assays, or leave the assay table out.")
    if (
        set(names) - {"assay", "task", *settings}
        or names.count("assay") != 1
        or len(set(names)) < len(names)
    ):
        raise DataError(
            f"{path.name} has other columns than assay, task, {', '.join(sorted(settings))}, some "
            "twice, or none named assay",
            "Rename or remove them.",
        )
    of_assay: dict[str, list[str]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        given = {k: v for k, v in row.items() if not (pd.isna(v) or v == "")}
        assay = str(given.pop("assay", "")).strip()
        name = str(given.pop("task", "")).strip() or assay
        if not assay or not name or name in of_assay.get(assay, ()):
            raise DataError(
                f"{path.name}, row {number}: no assay, or the same assay and task again"
            )
        of_assay.setdefault(assay, []).append(name)
        if name in recipe.tasks:
            if given:
                raise DataError(
                    f"{path.name}, row {number}: settings of a shared task stand in the recipe",
                    "Leave the row's other columns empty.",
                )
            continue
        numbers = {k: float(v) if isinstance(v, int) else v for k, v in given.items()}
        try:
            task = AssayTask.model_validate(numbers)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "the task"
            message = fault["msg"].removeprefix("Value error, ")
            raise DataError(f"{path.name}, row {number}: {where}: {message}") from None
        if tasks.setdefault(name, task) != task:
            raise DataError(f"{path.name}, row {number}: the task has other settings further up")
    if doubled(tasks, recipe):
        raise DataError(
            f"{path.name}: a task has the name of another column of the prepared table",
            "Rename the task.",
        )
    return tasks, of_assay


def _columns(path: Path, wanted: dict[str, str]) -> pd.DataFrame:
    """The named columns, each checked for its kind.

    Raises:
        DataError: unreadable file, missing column, wrong type.
    """
    table = read_table(path, [name for name, kind in wanted.items() if kind != NUMBER])
    for name, expected in wanted.items():
        if table.column_names.count(name) != 1:
            raise DataError(
                f"{path.name}: column '{name}' is missing, or there twice",
                "Name it so in the sources file. (A CSV has commas, and names in its first line.)",
            )
        kind = table.schema.field(name).type
        if not _fits(kind, expected):
            mend = "Convert the column."
            if expected == NUMBER:
                mend = "Qualifiers such as > go into a column of their own; empty means missing."
            raise DataError(f"{path.name}: column '{name}' is {kind}, expected {expected}", mend)
    chosen = table.select(list(wanted))
    for i, (name, expected) in enumerate(wanted.items()):
        if expected != NUMBER:  # in Arrow: pandas makes floats of whole numbers with gaps
            chosen = chosen.set_column(i, name, pc.cast(chosen[name], pa.string()))
    try:
        frame: pd.DataFrame = chosen.to_pandas()
    except (pa.ArrowException, UnicodeError):
        raise DataError(f"{path.name} holds text that is not UTF-8", "Convert the file.") from None
    return frame


def _fits(kind: pa.DataType, expected: str) -> bool:
    if pa.types.is_null(kind):
        return True
    if expected == NUMBER:
        return bool(
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        )
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(text or (expected == WHOLE and pa.types.is_integer(kind)))


def _text(column: pd.Series) -> Sequence[str]:
    """Text, empty where missing."""
    return ["" if pd.isna(v) else str(v).strip() for v in column]


def _numbers(column: pd.Series) -> np.ndarray:
    found: np.ndarray = pd.to_numeric(column).to_numpy(np.float64, copy=True, na_value=np.nan)
    found[~np.isfinite(found)] = np.nan
    return found


def _sides(column: pd.Series | None, rows: int, path: Path) -> dict[str, np.ndarray]:
    if column is None:
        return {"side": np.zeros(rows), "inclusive": np.zeros(rows, np.bool_)}
    text = column.fillna("").astype(str).str.strip()
    said = text.replace({"<=": "<", ">=": ">"})
    if set(said) - set(SIDES):
        raise DataError(
            f"{path.name}: column '{column.name}' has qualifiers other than <, <=, =, >= and >",
            "Correct them, or leave them empty.",
        )
    return {
        "side": said.map(SIDES).to_numpy(dtype=np.float64),
        "inclusive": text.isin(("<=", ">=")).to_numpy(),
    }

"""Reads a silo's own tables into a common form: compounds, measurements, tasks.

Messages name files and columns (in a wide table, columns are assays), but never a compound or a
number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import union_categoricals

from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.preparation.assay_table import read_assays
from blindsum.platform.data.preparation.own_files import NUMBER, TEXT, WHOLE, OwnFiles
from blindsum.platform.data.preparation.recipe import (
    UNITLESS,
    Activities,
    AssayTask,
    Recipe,
    Sources,
    Wide,
)
from blindsum.platform.data.preparation.relations import sides
from blindsum.platform.data.preparation.units import canonical
from blindsum.platform.errors import DataError

Dropped = Counter[str]
"""The number of dropped items, by reason."""


@dataclass(frozen=True)
class Tables:
    """A silo's tables in the common form. Private to the silo.

    `compounds` has columns compound, smiles and row (and name, for a wide table). `measurements`
    has columns compound, assay, value (float64, NaN where missing), side (-1, 0, 1, NaN for about),
    inclusive (for <= and >=), unit (canonical spelling, empty without one) and row. Rows are those
    in the file, from 1. `tasks` is by name; `of_assay` lists the tasks that use an assay's
    measurements.
    """

    compounds: pd.DataFrame
    measurements: pd.DataFrame
    tasks: dict[str, AssayTask]
    of_assay: dict[str, list[str]]
    divide_weights: bool = False

    def __repr__(self) -> str:
        return "Tables(private)"


def read_tables(
    sources: Sources, recipe: Recipe, folder: Path, note: Callable[[str], None] = lambda text: None
) -> Tables:
    """Read the tables that the sources name.

    Args:
        note: is told about rows that were left out.

    Raises:
        DataError: a file cannot be read, a column is missing or has the wrong type, or the assay
            table is wrong.
    """
    reading = OwnFiles(folder, sources.csv, note)
    assays = read_assays(sources, recipe, reading)
    if sources.wide is not None:
        compounds, measurements = _wide(sources.wide, reading, assays[1])
        with_units = {a for a, unit in sources.wide.units.items() if unit != UNITLESS}
        with_units |= set(sources.wide.unit_columns)
    else:
        compounds, measurements = _long(sources, reading)
        said = sources.activities
        unit = said and (said.unit or said.one_unit)
        with_units = set(assays[1]) if unit and unit != UNITLESS else set()
    _require_units(*assays, set(measurements["assay"].unique()) - with_units)
    if not len(compounds):
        raise DataError("the structure table has no rows", "Check compounds.file.")
    return Tables(compounds, measurements, *assays, sources.divide_weights)


def _long(sources: Sources, reading: OwnFiles) -> tuple[pd.DataFrame, pd.DataFrame]:
    if sources.compounds is None or sources.activities is None:
        raise DataError("the sources name no tables", "Name compounds and activities, or wide.")
    said, measured = sources.compounds, sources.activities
    path = reading.path(said.file)
    table = _columns(reading, path, {said.compound: WHOLE, said.smiles: TEXT})
    compounds = pd.DataFrame(
        {
            "compound": _text(table[said.compound]),
            "smiles": _text(table[said.smiles]),
            "row": np.arange(1, len(table) + 1),
        }
    )
    return compounds, read_activities(measured, reading)


def read_activities(measured: Activities, reading: OwnFiles) -> pd.DataFrame:
    """Return the measurements of all activity tables in the common form (`Tables`); rows are
    numbered through all files.

    Raises:
        DataError: a file cannot be read, or a column is missing or has the wrong type.
    """
    frames = [_activities(measured, reading, name) for name in measured.files]
    if len(frames) == 1:
        return frames[0]
    joined = pd.concat([one.drop(columns=list(_TEXTS)) for one in frames], ignore_index=True)
    for name in _TEXTS:
        joined[name] = union_categoricals([one[name] for one in frames])
    return joined.assign(row=np.arange(1, len(joined) + 1))


_TEXTS = ("compound", "assay", "unit")


def _activities(measured: Activities, reading: OwnFiles, file: str) -> pd.DataFrame:
    path = reading.path(file)
    wanted = {measured.compound: WHOLE, measured.assay: WHOLE, measured.value: NUMBER}
    for column in (measured.qualifier, measured.unit):
        if column:
            wanted[column] = TEXT
    hint = (
        "Write activities.unit: {}. If the numbers have no unit, write activities.one_unit: none."
    )
    mend = None if measured.unit or measured.one_unit else hint
    table = _columns(reading, path, wanted, mend, repeat=True)
    unit = table[measured.unit] if measured.unit else measured.one_unit
    side = table[measured.qualifier] if measured.qualifier else None
    return pd.DataFrame(
        {
            "compound": _categories(table[measured.compound]),
            "assay": _categories(table[measured.assay]),
            "value": _numbers(table[measured.value]),
            **sides(side, len(table), path),
            "unit": _units(unit, len(table)),
            "row": np.arange(1, len(table) + 1),
        }
    )


def _wide(
    said: Wide, reading: OwnFiles, of_assay: dict[str, list[str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = reading.path(said.file)
    wanted = {said.smiles: TEXT, **({said.compound: WHOLE} if said.compound else {})}
    wanted |= dict.fromkeys(of_assay, NUMBER)
    for key, named in (
        ("qualifiers", said.qualifiers),
        ("units", said.units),
        ("unit_columns", said.unit_columns),
    ):
        if set(named) - set(of_assay):
            raise DataError(
                f"wide.{key} names assays that are not among the columns used",
                "Correct their names, or remove them.",
            )
    wanted |= dict.fromkeys([*said.qualifiers.values(), *said.unit_columns.values()], TEXT)
    hint = (
        "Write wide.unit_columns: {{ASSAY: {}}}. If the numbers have no unit, write wide.units: "
        "{{ASSAY: none}} for every assay."
    )
    all_said = set(of_assay) <= {*said.units, *said.unit_columns}
    table = _columns(reading, path, wanted, None if all_said else hint)
    rows = np.arange(len(table)).astype(str)
    name = _text(table[said.compound]) if said.compound else rows
    # Row numbers identify compounds, because a compound's name may appear in several rows.
    compounds = pd.DataFrame({"compound": rows, "smiles": _text(table[said.smiles]), "name": name})
    compounds["row"] = np.arange(1, len(table) + 1)
    parts = []
    for assay in of_assay:
        side = table[said.qualifiers[assay]] if assay in said.qualifiers else None
        column = said.unit_columns.get(assay)
        unit = table[column] if column else said.units.get(assay)
        part = pd.DataFrame(
            {
                "compound": rows,
                "value": _numbers(table[assay]),
                **sides(side, len(table), path),
                "unit": _units(unit, len(table)),
                "row": np.arange(1, len(table) + 1),
            }
        )
        part.insert(1, "assay", assay)
        parts.append(part[part["value"].notna()])
    return compounds, pd.concat(parts, ignore_index=True)


def _columns(
    reading: OwnFiles,
    path: Path,
    wanted: dict[str, str],
    unit_mend: str | None = None,
    repeat: bool = False,
) -> pd.DataFrame:
    """Read the named columns, and check the type of each.

    Args:
        repeat: whether texts repeat: they become categories, which need less memory.
        unit_mend: what to do about units in a column that the sources do not name, for messages;
            None if such columns are allowed.

    Raises:
        DataError: the file cannot be read, a column is missing or has the wrong type, or a column
            that the sources do not name has several units.
    """
    texts = [name for name, kind in wanted.items() if kind != NUMBER]
    table = plain(reading.table(path, texts), wanted, path)
    counts = Counter(table.column_names)
    for name, expected in wanted.items():
        if counts[name] != 1:
            raise DataError(
                f"{path.name}: column '{name}' is missing or duplicate",
                "Correct its name in the sources file. (A CSV must have the column names in its "
                "first line, and commas between cells unless the sources' csv says otherwise.)",
                at_silo=reading.findings(path, table, {name: expected}),
            )
        if expected != NUMBER:
            table = _with_dates_as_text(table, name)
        kind = table.schema.field(name).type
        if not _fits(kind, expected):
            hint = "Convert the column."
            if expected == NUMBER:
                hint = "Put qualifiers such as > into a separate column; empty means missing."
            raise DataError(
                f"{path.name}: column '{name}' is {kind}, expected {expected}",
                hint,
                at_silo=reading.findings(path, table, {name: expected}),
            )
    if unit_mend:
        _refuse_unnamed_units(table, wanted, path, unit_mend)
    chosen = table.select(list(wanted))
    for i, (name, expected) in enumerate(wanted.items()):
        if expected != NUMBER:  # by Arrow, because pandas turns whole numbers with gaps into floats
            text = pc.cast(chosen[name], pa.string())
            chosen = chosen.set_column(i, name, text.dictionary_encode() if repeat else text)
    try:
        frame: pd.DataFrame = chosen.to_pandas()
    except (pa.ArrowException, UnicodeError):
        raise DataError(f"{path.name} has text that is not UTF-8", "Convert the file.") from None
    return frame


def _with_dates_as_text(table: pa.Table, name: str) -> pa.Table:
    """Return the table with a column of dates as ISO 8601 text, without a time if all have none."""
    column = table.column(name)
    if not pa.types.is_temporal(column.type):
        return table
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        dates = column.cast(pa.date32(), safe=False)
        if pc.all(pc.equal(dates.cast(column.type), column), min_count=0).as_py():
            column = dates
    return table.set_column(table.schema.get_field_index(name), name, column.cast(pa.string()))


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
    """Return the column as text, empty where missing."""
    return ["" if pd.isna(v) else str(v).strip() for v in column]


def _categories(column: pd.Series) -> pd.Categorical:
    """Return the texts as `_text`, as categories."""
    return _renamed(column, lambda text: text.strip())


def _renamed(column: pd.Series, name: Callable[[str], str]) -> pd.Categorical:
    """Return a column of categories with other names, empty where missing; categories that get the
    same name become one."""
    named = [name(str(text)) for text in column.cat.categories] + [""]
    places = {text: i for i, text in enumerate(sorted({*named}))}
    codes = np.array([places[text] for text in named])[column.cat.codes.to_numpy()]
    return pd.Categorical.from_codes(codes, [*places])


def _numbers(column: pd.Series) -> np.ndarray:
    found: np.ndarray = pd.to_numeric(column).to_numpy(np.float64, copy=True, na_value=np.nan)
    found[~np.isfinite(found)] = np.nan
    return found


def _units(said: pd.Series | str | None, rows: int) -> pd.Categorical:
    """Return each row's unit in its canonical spelling, empty if it has none."""
    if not isinstance(said, pd.Series):
        one = canonical(said) if said and said != UNITLESS else ""
        return pd.Categorical.from_codes(np.zeros(rows, np.int8), [one])
    return _renamed(said.astype("category"), canonical)


def _require_units(
    tasks: dict[str, AssayTask], of_assay: dict[str, list[str]], unitless: set[str]
) -> None:
    """Raise DataError if a task has a unit but the sources give none for its measurements."""
    for name in (t for assay, names in of_assay.items() if assay in unitless for t in names):
        if tasks[name].target is not None:
            raise DataError(
                f"task '{name}' has a unit or a transform, but according to the sources its "
                "measurements have no unit",
                "Write activities.unit (a column) or activities.one_unit; for a wide table, "
                "wide.units or wide.unit_columns.",
            )


_UNIT_LIKE = re.compile(r"(^|[^a-z])(units?|uom)([^a-z]|$)", re.IGNORECASE)


def _refuse_unnamed_units(table: pa.Table, named: Collection[str], path: Path, hint: str) -> None:
    """Raise DataError if a column that the sources do not name has several units: numbers in
    different units must not be merged."""
    for name in [n for n in table.column_names if n not in named]:
        kind = table.schema.field(name).type if table.column_names.count(name) == 1 else pa.null()
        if not _UNIT_LIKE.search(name) or not _fits(kind, TEXT) or pa.types.is_null(kind):
            continue
        if len({canonical(text or "") for text in table[name].unique().to_pylist()} - {""}) > 1:
            raise DataError(
                f"{path.name}: column '{name}' has several units, but the sources do not name it",
                hint.format(name),
            )

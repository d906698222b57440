"""TUNER's table of assays, T0, and its table of the catalogue, T_cat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.preparation.faults import Faults
from blindsum.platform.data.reading import read_table

CATALOGUE = "CATALOG-PANEL"

_THRESHOLDS = [f"expert_threshold_{i}" for i in range(1, 6)]
_NEEDED = ["input_assay_id", "assay_type", "use_in_regression", "is_binary"]
_MAY_HAVE = [*_THRESHOLDS, "direction", "catalog_assay_id", "parent_assay_id"]
_OF_CATALOGUE = ["catalog_assay_id", "threshold"]
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_DIRECTIONS = ("", "high", "low")


@dataclass(frozen=True, kw_only=True)
class Assay:
    """A row of T0. `direction` is empty if the table gives none."""

    name: str
    type: str
    regression: bool
    binary: bool
    experts: tuple[float, ...]
    direction: str = ""
    catalogue: str = ""


def read_weight_tables(paths: Sequence[Path], faults: Faults) -> list[Assay]:
    """Read tables of assays, and note all that is wrong with them.

    Raises:
        DataError: a file cannot be read.
    """
    assays, seen = list[Assay](), dict[str, Path]()
    for path in paths:
        for number, row in enumerate(_rows(path, _NEEDED, _MAY_HAVE, faults), 1):
            where = f"{path.name}, row {number}"
            assay = _assay(row, where, faults)
            if assay is None:
                continue
            if assay.name in seen:
                faults.add(f"{where}: the assay is already in {seen[assay.name].name}")
                continue
            seen[assay.name] = path
            assays.append(assay)
    return assays


def read_catalogue(path: Path, faults: Faults) -> dict[str, list[float]]:
    """Read a table of the catalogue: the thresholds of each of its assays.

    Raises:
        DataError: the file cannot be read.
    """
    found: dict[str, list[float]] = {}
    for number, row in enumerate(_rows(path, _OF_CATALOGUE, [], faults), 1):
        threshold = _number(row["threshold"])
        if not row["catalog_assay_id"] or threshold is None or math.isnan(threshold):
            faults.add(f"{path.name}, row {number}: no catalog_assay_id, or no threshold")
            continue
        there = found.setdefault(row["catalog_assay_id"], [])
        if threshold not in there:
            there.append(threshold)
    return {name: sorted(there) for name, there in found.items()}


def _rows(
    path: Path, needed: Sequence[str], more: Sequence[str], faults: Faults
) -> list[dict[str, str]]:
    """Return the rows as texts, empty where missing; none if a column is missing."""
    table = read_table(path, [*needed, *more])
    missing = [name for name in needed if table.column_names.count(name) != 1]
    doubled = [name for name in more if table.column_names.count(name) > 1]
    if missing or doubled:
        if missing:
            faults.add(f"{path.name}: columns missing or there twice: {', '.join(missing)}")
        if doubled:
            faults.add(f"{path.name}: columns there twice: {', '.join(doubled)}")
        return []
    if not table.num_rows:
        faults.add(f"{path.name} has no rows")
    columns = {}
    for name in (*needed, *more):
        texts: list[str | None] = [None] * table.num_rows
        if name in table.column_names:
            try:
                texts = pc.cast(table[name], pa.string()).to_pylist()
            except (pa.ArrowException, UnicodeError):
                faults.add(f"{path.name}: column {name} holds neither text nor numbers")
        columns[name] = [(text or "").strip() for text in texts]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _assay(row: dict[str, str], where: str, faults: Faults) -> Assay | None:
    """Return the assay of a row; None if something is wrong with it."""
    wrong = [f"{name} is empty" for name in _NEEDED if not row[name]]
    flags = {}
    for name in ("use_in_regression", "is_binary"):
        flags[name] = _BOOLEANS.get(row[name].lower())
        if row[name] and flags[name] is None:
            wrong.append(f"{name} is neither true nor false")
    numbers = {name: _number(row[name]) for name in _THRESHOLDS}
    wrong += [f"{name} is not a number" for name, value in numbers.items() if value is None]
    direction = row["direction"].lower()
    if direction not in _DIRECTIONS:
        wrong.append("direction is neither high nor low")
    experts = sorted({v for v in numbers.values() if v is not None and not math.isnan(v)})
    if flags["is_binary"] and (experts or flags["use_in_regression"]):
        wrong.append("a binary assay has neither thresholds nor regression")
    if wrong:
        faults.add(f"{where}: {'; '.join(wrong)}")
        return None
    return Assay(
        name=row["input_assay_id"],
        type=row["assay_type"],
        regression=bool(flags["use_in_regression"]),
        binary=bool(flags["is_binary"]),
        experts=tuple(experts),
        direction=direction,
        catalogue=row["catalog_assay_id"],
    )


def _number(text: str) -> float | None:
    """Return a number, NaN for an empty text, and None for what is no finite number."""
    if text.lower() in ("", "nan"):
        return math.nan
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None

"""Rows of a silo's table that break a rule of the job: listed at the silo, refused or dropped.

The list, a CSV of mode 0600 in the silo's state folder, names each row, its column, the reason and
the value. The error that leaves the silo names only columns of the job: no value, row or count.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.at_silo import remove_at_silo, write_at_silo
from blindsum.platform.errors import DataError

MOST_ROWS = 100_000
"""The longest list. A column of the wrong kind is wrong in every row."""

MOST_NAMES = 20
"""The most columns that a message names; the list at the silo has them all."""

MOST_CHARACTERS = 100
"""How much of a value is listed."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Rows at fault, and why. `rows` and what the table has in them are private to the silo.

    A fault refuses the table, or drops the rows, or only lists them (`then`).

    Attributes:
        rows: bool [records].
        column: the column at fault; empty if it is the whole record.
        fault: what the column has, in words that may leave the silo.
        mend: what to do about it, for the same message.
        reason: why, in the list at the silo; default: the fault.
    """

    rows: npt.NDArray[np.bool_]
    column: str
    fault: str
    mend: str
    reason: str = ""
    then: Literal["refuse", "drop", "list"] = "refuse"

    def __repr__(self) -> str:
        return "Rejected(private)"


def said_of(columns: Iterable[str], verb: tuple[str, str], what: str) -> str:
    """Return what is said of columns, for a message. It does not tell how many there are.

    Args:
        columns: their names; the empty name stands for the whole table.
        verb: in the singular and in the plural.
    """
    distinct = list(dict.fromkeys(columns))
    if "" in distinct:
        return f"the table {verb[0]} {what}"
    names = [f"'{name}'" for name in distinct[:MOST_NAMES]]
    if len(names) == 1:
        return f"column {names[0]} {verb[0]} {what}"
    if len(distinct) > MOST_NAMES:
        names.append("others")
    return f"columns {', '.join(names[:-1])} and {names[-1]} {verb[1]} {what}"


def list_rejected(rejected: Sequence[Rejected], table: pa.Table, path: Path) -> None:
    """Write the list of rejected rows, or remove an earlier one if there is none.

    Args:
        table: the table whose rows they are.

    Raises:
        DataError: the list cannot be written.
    """
    if any(one.rows.any() for one in rejected):
        write_at_silo(path, _listed(rejected, table))
    else:
        remove_at_silo(path)


def _listed(rejected: Sequence[Rejected], table: pa.Table) -> str:
    """Return the list as CSV, in the order of rows."""
    at = [np.flatnonzero(one.rows) for one in rejected]
    rows, which = np.concatenate(at), np.repeat(np.arange(len(at)), [len(one) for one in at])
    order = np.lexsort((which, rows))[:MOST_ROWS]
    columns = {one.column: table.column(one.column) for one in rejected if one.column}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "reason", "value"])
    for row, i in zip(rows[order].tolist(), which[order].tolist(), strict=True):
        one = rejected[i]
        value = _shown(columns[one.column][row]) if one.column else ""
        writer.writerow([row + 1, one.column, one.reason or one.fault, value])
    if len(rows) > MOST_ROWS:
        text.write("and more, which are not listed\n")
    return text.getvalue()


def _shown(value: pa.Scalar) -> str:
    try:
        plain = value.as_py()
    except UnicodeError:
        return "(text that is not UTF-8)"
    return "" if plain is None else str(plain)[:MOST_CHARACTERS]


def refuse(rejected: Iterable[Rejected], file: str, place: Path) -> None:
    """Raise one error for all rows that are not to be dropped.

    Args:
        file: the name of the table's file.
        place: where the rows are listed.

    Raises:
        DataError: there are such rows. It names every column at fault, each kind of fault once.
    """
    columns: dict[str, list[str]] = {}
    mends: dict[str, None] = {}
    for one in rejected:
        if one.then == "refuse" and one.rows.any():
            columns.setdefault(one.fault, []).append(one.column)
            mends[one.mend] = None
    if columns:
        faults = "; ".join(said_of(names, ("has", "have"), f) for f, names in columns.items())
        raise DataError(
            f"{file}: {faults}; the rows are listed in {place} at the silo", " ".join(mends)
        )


def dropped_rows(rejected: Iterable[Rejected], records: int) -> npt.NDArray[np.bool_]:
    """Return which rows the job says to train without, bool [records]."""
    gone = np.zeros(records, np.bool_)
    for one in rejected:
        if one.then == "drop":
            gone |= one.rows
    return gone

"""Rows of a silo's table that break a rule of the job: listed at the silo, refused or dropped.

The list, a CSV of mode 0600 in the silo's state folder, names each row, its column, the reason and
the value. The error that leaves the silo names only columns of the job: no value, row or count.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Listed:
    """The list of rejected rows: each one's number from 1, its column, the reason and the value.
    Private to the silo.

    Attributes:
        rows: the first MOST_ROWS, in their order.
        count: how many there are.
    """

    rows: list[tuple[int, str, str, str]] = field(default_factory=list)
    count: int = 0

    def __repr__(self) -> str:
        return "Listed(private)"

    def add(self, later: Listed) -> None:
        """Take the list of later rows."""
        self.rows += later.rows[: MOST_ROWS - len(self.rows)]
        self.count += later.count

    def write(self, place: Path) -> None:
        """Write the list, or remove an earlier one if there is nothing to list.

        Raises:
            DataError: it cannot be written.
        """
        if not self.count:
            return remove_at_silo(place)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", "column", "reason", "value"])
        table.writerows(self.rows)
        more = "and more, which are not listed\n" if self.count > MOST_ROWS else ""
        return write_at_silo(place, f"{text.getvalue()}{more}")


class RejectedRows:
    """The rejected rows of a table that is read part by part: listed, and then refused."""

    def __init__(self) -> None:
        self._first, self._of_part = 0, list[Rejected]()
        self._table: pa.Table | None = None
        self._list = Listed()
        self._faults = dict[tuple[bool, str, str], Rejected]()
        self._of_own = dict[tuple[bool, str, str], Rejected]()

    def begin(self, table: pa.Table, first: int) -> None:
        """Go on with the table's next rows.

        Args:
            first: the number of their first, from 0.
        """
        self._list_part()
        self._table, self._first = table, first

    def add(self, rejected: Iterable[Rejected], own: bool = False) -> None:
        """Take rejected rows of the part that was begun last.

        Args:
            own: whether it is private tasks that reject them, which may not be named.
        """
        for one in rejected:
            if one.rows.any():
                self._of_part.append(one)
                faults = self._of_own if own else self._faults
                faults.setdefault((one.then == "refuse", one.fault, one.column), one)

    @property
    def refused(self) -> bool:
        """Whether a row was rejected that is not to be dropped."""
        return any(refused for refused, *_ in (*self._faults, *self._of_own))

    def finish(self, file: str, place: Path) -> None:
        """List all rejected rows, or remove an earlier list if there are none; then refuse the
        table if some are not to be dropped.

        Args:
            file: the name of the table's file.
            place: where to list the rows.

        Raises:
            DataError: there are such rows, or the list cannot be written.
        """
        self.listed.write(place)
        refuse(self._faults.values(), file, place)
        with without_names(place):
            refuse(self._of_own.values(), file, place)

    @property
    def listed(self) -> Listed:
        """The list of all that was rejected so far."""
        self._list_part()
        return self._list

    def _list_part(self) -> None:
        """List the part's rejected rows as CSV, in the order of rows."""
        if self._table is None:
            return
        at = [np.flatnonzero(one.rows) for one in self._of_part] or [np.zeros(0, np.int64)]
        rows, which = np.concatenate(at), np.repeat(np.arange(len(at)), [len(one) for one in at])
        order = np.lexsort((which, rows))[: max(MOST_ROWS - len(self._list.rows), 0)]
        for row, i in zip(rows[order].tolist(), which[order].tolist(), strict=True):
            one = self._of_part[i]
            value = _shown(self._table.column(one.column)[row]) if one.column else ""
            row += self._first + 1
            self._list.rows.append((row, one.column, one.reason or one.fault, value))
        self._list.count += len(rows)
        self._table, self._of_part = None, []


def _shown(value: pa.Scalar) -> str:
    try:
        plain = value.as_py()
    except UnicodeError:
        return "(text that is not UTF-8)"
    if isinstance(plain, bytes):
        return f"({len(plain)} bytes)"
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


@contextmanager
def without_names(rejects: Path) -> Iterator[None]:
    """Write errors about private tasks at the silo, and raise one that tells nothing about them.

    Others may learn neither the names of private tasks nor how many there are.
    """
    try:
        yield
    except (DataError, pa.ArrowException, ValueError, OverflowError) as error:
        place = rejects.with_name("private_tasks_error.txt")
        write_at_silo(place, f"{error}\n{getattr(error, 'at_silo', '')}\n")
        raise DataError(
            "a column of this silo's private tasks is missing or holds wrong values",
            f"The column and the reason are written in {place} at the silo.",
        ) from None


def dropped_rows(rejected: Iterable[Rejected], records: int) -> npt.NDArray[np.bool_]:
    """Return which rows the job says to train without, bool [records]."""
    gone = np.zeros(records, np.bool_)
    for one in rejected:
        if one.then == "drop":
            gone |= one.rows
    return gone

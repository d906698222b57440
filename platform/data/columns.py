"""The columns that a table must have, and their types.

Errors name a column, its type and the expected type. They never hold a value, a row or a count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.column_findings import column_findings
from blindsum.platform.data.rejected_rows import Rejected, said_of
from blindsum.platform.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ColumnType:
    """The Arrow types that a column may have, and the words for them in an error message."""

    expected: str
    fits: Callable[[pa.DataType], bool]
    text_in_csv: bool = False
    """Whether a CSV's column is read as text, even if every value looks like a number."""
    mend: str = ""
    """What else to do about another type, for the message."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column that a table must have exactly once."""

    name: str
    type: ColumnType


class NeedsColumns(ABC):
    """Something that is computed from columns of a table."""

    @abstractmethod
    def columns(self) -> list[Column]:
        """Return the columns that it is computed from. They may have no gaps."""

    def check(self, table: pa.Table, path: Path) -> None:
        """Check that a table has the columns. Raises DataError, as `require`."""
        require(table, self.columns(), path)


def require(
    table: pa.Table, columns: Iterable[Column], path: Path, whole: Iterable[str] = ()
) -> None:
    """Check that a table has the columns, each with its type.

    Args:
        path: the table's file, which errors name.
        whole: columns that may have no gaps. They are named too if another column is at fault, so
            that one message has all there is to mend.

    Raises:
        DataError: a column is missing, is there more than once, or has another type; one error for
            all columns at fault.
    """
    counts = Counter(table.column_names)
    faults: dict[str, list[str]] = {}
    expected: dict[str, str] = {}
    mends: dict[str, None] = {}
    for column in columns:
        count = counts[column.name]
        found = table.schema.field(column.name).type if count == 1 else None
        if found is None:
            # The message does not list the table's columns: in a CSV without a header, the first
            # record stands where the names should be.
            fault = "missing" if count == 0 else f"there {count} times"
            mend = (
                "Rename the column in the data, or name it so in the job's data section. "
                "(The first line of a CSV must hold the names.)"
            )
        elif not column.type.fits(found):
            fault = f"{found}, expected {column.type.expected}"
            mend = "Convert the column; all silos must agree on its type."
            if column.type.mend:
                mend = f"{mend} {column.type.mend}"
        else:
            continue
        faults.setdefault(fault, []).append(column.name)
        expected[column.name] = column.type.expected
        mends[mend] = None
    if faults:
        for name in whole:
            if counts[name] == 1 and missing_or_infinite(table.column(name)) is not None:
                faults.setdefault(GAPS, []).append(name)
                mends[
                    "Fill or remove records with gaps; for features of kind columns, missing can "
                    "say what a gap counts as."
                ] = None
        said = "; ".join(
            said_of(names, ("has", "have") if fault == GAPS else ("is", "are"), fault)
            for fault, names in faults.items()
        )
        told = column_findings(table, expected)
        raise DataError(f"{path.name}: {said}", " ".join(mends), at_silo=told)


GAPS = "missing, NaN or infinite values"


def gaps(table: pa.Table) -> list[Rejected]:
    """Return the rows with missing, NaN or infinite values, for each column that has some."""
    found = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if (rows := missing_or_infinite(column)) is not None:
            mend = "Fill or remove those records."
            found.append(Rejected(rows=rows, column=name, fault=GAPS, mend=mend))
    return found


def missing_or_infinite(column: pa.ChunkedArray) -> npt.NDArray[np.bool_] | None:
    """Return bool [records], whether a value is missing, NaN or infinite; None if none is."""
    if not column.null_count and not _has_infinite(column):
        return None
    rows = pc.is_null(column)
    if pa.types.is_floating(column.type):
        rows = pc.invert(pc.is_finite(column).fill_null(False))
    return np.asarray(rows.to_numpy(), np.bool_)


def as_held(values: Sequence[float], kind: pa.DataType) -> npt.NDArray[np.float64]:
    """Return numbers of the job as a column of that type holds them: in a column of float32, -99.9
    is the float32 next to it, which is another double."""
    wanted = np.array(values, np.float64)
    if not pa.types.is_float32(kind):
        return wanted
    with np.errstate(over="ignore"):
        return wanted.astype(np.float32).astype(np.float64)


def _has_infinite(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(column.type):
        return False
    return not pc.all(pc.is_finite(pc.drop_null(column)), min_count=0).as_py()


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_positions(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and _is_integer(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_picture(kind: pa.DataType) -> bool:
    return _is_text(kind) or _is_bytes(kind)


def _is_lists_of_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and _is_number(kind.value_type))


def _or_empty(fits: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: fits(kind) or bool(pa.types.is_null(kind))


def _is_date(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or _is_text(kind)
        or pa.types.is_null(kind)
    )


_KINDS_OF_FEATURES = "Text needs its categories in data.features.columns, and dates need date."
FEATURE = ColumnType(expected="a number", fits=_is_number, mend=_KINDS_OF_FEATURES)
INTEGER = ColumnType(expected="an integer", fits=_is_integer)
TEXT = ColumnType(expected="text", fits=_is_text)
BYTES = ColumnType(expected="bytes", fits=_is_bytes)
LISTS_OF_NUMBERS = ColumnType(expected="lists of numbers", fits=_is_lists_of_numbers)
POSITIONS = ColumnType(expected="lists of integers", fits=_is_positions)

INTEGER_KEY = ColumnType(expected="an integer (data.folds.key)", fits=_is_integer)
TEXT_KEY = ColumnType(expected="text (data.folds.key)", fits=_is_text, text_in_csv=True)

# As in a CSV, where a mix of cells would otherwise decide the column's type.
DATE = ColumnType(expected="a date", fits=_is_date, text_in_csv=True)

# Arrow gives a column without a single value the type null: an assay that this silo never ran.
NUMBER_OR_EMPTY = ColumnType(expected="a number", fits=_or_empty(_is_number))
TEXT_OR_EMPTY = ColumnType(expected="text", fits=_or_empty(_is_text))

TEXT_ONLY = ColumnType(expected="text", fits=_is_text, text_in_csv=True)
PICTURE = ColumnType(
    expected="pictures: bytes, or the names of their files", fits=_is_picture, text_in_csv=True
)

_YES_AND_NO = "(Without quotes, YAML reads yes and no in the job as true and false.)"
LABEL_TEXT = ColumnType(expected="text", fits=_is_text, text_in_csv=True)
LABEL_TEXT_OR_EMPTY = ColumnType(expected="text", fits=_or_empty(_is_text), text_in_csv=True)
LABEL_NUMBER = ColumnType(
    expected="whole numbers, or true and false", fits=_is_number, mend=_YES_AND_NO
)

FEATURE_OR_EMPTY = ColumnType(
    expected="a number", fits=_or_empty(_is_number), mend=_KINDS_OF_FEATURES
)
CATEGORY_TEXT = ColumnType(expected="text", fits=_or_empty(_is_text), text_in_csv=True)
CATEGORY_NUMBER = ColumnType(
    expected="whole numbers, or true and false", fits=_or_empty(_is_number), mend=_YES_AND_NO
)

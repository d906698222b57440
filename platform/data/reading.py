"""Reads the files that hold a silo's table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.files import arrow_file, csv_dialect, parquet_file, sdf
from blindsum.platform.data.files.csv_file import read_csv
from blindsum.platform.data.files.csv_findings import csv_findings
from blindsum.platform.data.files.parts import EVERY, Part, chosen, in_parts
from blindsum.platform.errors import DataError
from blindsum.platform.job.csv_section import CsvSection

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
_KINDS = (
    "Name a Parquet file or a folder of them (.parquet), an Arrow or Feather file (.arrow, "
    ".feather), a CSV (.csv, .tsv), or molecules (.sdf). CSV and SDF may be compressed (.gz, .bz2, "
    ".zst)."
)


def _ignored(text: str) -> None:
    pass


def read_table(
    path: Path,
    texts: Collection[str] = (),
    csv: CsvSection | None = None,
    note: Callable[[str], None] = _ignored,
) -> pa.Table:
    """Read a whole file or folder, as `read_parts`."""
    return pa.concat_tables([part.table for part in read_parts(path, texts, csv, note)])


def read_parts(
    path: Path,
    texts: Collection[str] = (),
    csv: CsvSection | None = None,
    note: Callable[[str], None] = _ignored,
    columns: Collection[str] | None = None,
    most: int | None = None,
    rows: range = EVERY,
) -> Iterator[Part]:
    """Read a file or folder of a kind that its ending names, part by part; at least one part, which
    may be empty. Endings may be in capitals. CSV and SDF files are read as a whole.

    Args:
        texts: columns of a CSV, SDF or partitioned folder to read as text, even if their values
            look like numbers.
        csv: how CSV files are written.
        note: is told what only the silo's owner may know, for example about rows left out.
        columns: those to read, as `chosen`; None for all.
        most: the most records of a part; None if they are small.
        rows: those to read; of CSV and SDF files, all of them.

    Raises:
        DataError: the file cannot be read.
    """
    kind = "data file"
    try:
        kind = kind_of(path)
        match kind:
            case "CSV":
                yield from _sliced(read_csv(path, texts, csv, note), columns, most)
            case "SDF":
                yield from _sliced(sdf.read_sdf(path, texts, csv, note), columns, most)
            case "Arrow":
                yield from arrow_file.read_arrow(path, columns, most, rows)
            case "Parquet folder":
                yield from parquet_file.read_parquet_folder(path, texts, columns, most, rows)
            case _:
                yield from parquet_file.read_parquet(path, columns, most, rows)
    except FileNotFoundError:
        raise DataError(
            f"there is no data file {path}",
            "Relative paths start at the folder of the file that names it, on the silo's own node.",
        ) from None
    except PermissionError:
        raise DataError(f"{path} cannot be read by this user", "Check its permissions.") from None
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as {kind} ({type(error).__name__})",
            "Check that it is complete and of that kind. CSV has commas and is UTF-8, unless "
            "data.csv says otherwise.",
            at_silo=csv_findings(path, csv) if kind == "CSV" else "",
        ) from None


def count_records(path: Path) -> int:
    """Return the number of records of a file or folder that several processes can share.

    Raises:
        DataError: it is a CSV or SDF file, which is read as a whole, or of an unknown kind.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    require_shareable(path)
    count = arrow_file.count_arrow if kind_of(path) == "Arrow" else parquet_file.count_parquet
    return count(path)


def require_shareable(path: Path) -> None:
    """Raise DataError if several processes cannot share the file, because its kind is read as a
    whole. What cannot be opened is no fault here."""
    with suppress(OSError):
        if (kind := kind_of(path)) in ("CSV", "SDF"):
            raise DataError(
                f"{path.name} is a file of kind {kind}, which is read as a whole: several workers "
                "cannot share it",
                "Write the table as Parquet, or leave silos.NAME.workers out.",
            )


def _sliced(table: pa.Table, columns: Collection[str] | None, most: int | None) -> Iterator[Part]:
    names = chosen(table.schema, columns)
    used = table if names is None else table.select(names)
    yield from in_parts(used.to_batches(), used.schema, table.num_rows, most)


def is_csv(path: Path) -> bool:
    """Return whether the file's ending is one of a CSV."""
    return csv_dialect.uncompressed_name(path).endswith(csv_dialect.ENDINGS)


def kind_of(path: Path) -> str:
    """Return the kind of a file: CSV, SDF, Arrow, Parquet, or Parquet folder.

    Raises:
        DataError: it is of no kind that is read.
        OSError: it cannot be opened, to see from its content what its name does not say.
    """
    if path.is_dir():
        return "Parquet folder"
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", "Name the file or folder itself.")
    if is_csv(path):
        return "CSV"
    name = path.name.lower()
    if csv_dialect.uncompressed_name(path).endswith(sdf.ENDINGS):
        return "SDF"
    if name.endswith(arrow_file.ENDINGS):
        return "Arrow"
    if name.endswith(parquet_file.ENDINGS):
        return "Parquet"
    if name.endswith(_SPREADSHEETS):
        raise DataError(
            f"{path.name} is a spreadsheet, which Blindsum does not read",
            "Save its sheet as CSV (in Excel: Save As, CSV UTF-8), and name that file.",
        )
    with path.open("rb") as file:
        begins = file.read(6)
    if begins.startswith(b"PAR1"):
        return "Parquet"
    if begins == b"ARROW1":
        return "Arrow"
    raise DataError(f"{path.name} is not of a kind that Blindsum reads", _KINDS)

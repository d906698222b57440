"""Reads CSV files."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from blindsum.platform.data.files.csv_dialect import dialect_of, opened
from blindsum.platform.job.csv_section import CsvSection


def read_csv(
    path: Path, texts: Collection[str], section: CsvSection | None, note: Callable[[str], None]
) -> pa.Table:
    """Read a CSV file. Rows of nothing but empty cells at its end, which spreadsheets write, are
    skipped.

    Args:
        texts: columns to read as text, even if their values look like numbers.
        note: is told what only the silo's owner may know.

    Raises:
        OSError, pyarrow.ArrowException, ValueError: the file cannot be read.
    """
    dialect = dialect_of(path, section)
    with opened(path) as stream:
        table = pyarrow.csv.read_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                skip_rows=int(dialect.has_separator_line),
                # By this name Arrow knows that there is nothing to convert.
                encoding="utf8" if dialect.encoding == "utf-8" else dialect.encoding,
                block_size=dialect.block_bytes,
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=dialect.delimiter, newlines_in_values=True
            ),
            convert_options=conversion(section, texts),
        )
    _ = table.column_names  # decodes the header: a ValueError if it is not UTF-8
    return _without_empty_end(table, path, note)


def conversion(section: CsvSection | None, texts: Collection[str]) -> pyarrow.csv.ConvertOptions:
    """Return how cells become values."""
    section = section or CsvSection()
    missing = section.null_values
    return pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(texts, pa.string()),
        decimal_point=section.decimal,
        null_values=None if missing is None else ["", *missing],
        strings_can_be_null=missing is not None,
    )


def _without_empty_end(table: pa.Table, path: Path, note: Callable[[str], None]) -> pa.Table:
    rows = table.num_rows
    if not rows or any(column[rows - 1].as_py() not in (None, "") for column in table.columns):
        return table
    kept = 0
    for column in table.columns:
        kept = max(kept, int(np.flatnonzero(_is_filled(column)).max(initial=-1)) + 1)
    note(
        f"{path.name}: rows {kept + 1} to {rows} at the end have only empty cells and were skipped."
    )
    return table.slice(0, kept)


def _is_filled(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    filled = pc.is_valid(column)
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        filled = pc.and_(filled, pc.fill_null(pc.greater(pc.binary_length(column), 0), False))
    return np.array(filled, np.bool_)

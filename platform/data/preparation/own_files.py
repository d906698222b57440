"""The files that a silo's sources name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.column_findings import column_findings
from blindsum.platform.data.files.csv_findings import csv_findings
from blindsum.platform.data.reading import is_csv, read_table
from blindsum.platform.job.csv_section import CsvSection
from blindsum.platform.job.paths import resolve

TEXT, WHOLE, NUMBER = "text", "text or whole numbers", "numbers"
"""What a column may hold."""


@dataclass(frozen=True)
class OwnFiles:
    """Where a silo's own tables lie, how its CSV files are written, and who is told of rows that
    were left out."""

    folder: Path
    csv: CsvSection | None
    note: Callable[[str], None]

    def path(self, said: str) -> Path:
        """Return the path of a file that the sources name."""
        return resolve(said, str(self.folder))

    def table(self, path: Path, texts: Collection[str]) -> pa.Table:
        """Read a file. Raises DataError if it cannot be read."""
        return read_table(path, texts, self.csv, self.note)

    def findings(self, path: Path, table: pa.Table, expected: dict[str, str]) -> str:
        """Return what the table has in place of columns that it should have."""
        found = column_findings(table, expected)
        return f"{found}\n{csv_findings(path, self.csv)}" if is_csv(path) else found

"""Reads the files that hold a silo's table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from blindsum.platform.errors import DataError


def read_table(path: Path, texts: Collection[str] = ()) -> pa.Table:
    """Read a Parquet file, or a CSV if the name ends in .csv or .csv.gz.

    Args:
        texts: columns of a CSV to read as text, even if their values look like numbers.

    Raises:
        DataError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", "Name the Parquet or CSV file itself.")
    try:
        if path.name.endswith((".csv", ".csv.gz")):
            kinds = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
            table = pyarrow.csv.read_csv(path, convert_options=kinds)
            _ = table.column_names  # decodes the header: a ValueError if it is not UTF-8
            return table
        # Not pyarrow's read_table, which makes columns of folder names such as `site=3`.
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(
            f"there is no data file {path}",
            "Relative paths start at the folder of the file that names it, on the silo's own node.",
        ) from None
    except PermissionError:
        raise DataError(f"{path} cannot be read by this user", "Check its permissions.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as {'CSV' if '.csv' in path.name else 'Parquet'} "
            f"({type(error).__name__})",
            "Check that the file is complete and of that kind; CSV has commas and is UTF-8.",
        ) from None

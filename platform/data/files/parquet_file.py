"""Reads Parquet: one file, or a folder of files as Spark, Ray Data, Hive and pandas write them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

from blindsum.platform.errors import DataError

ENDINGS = (".parquet", ".parq", ".pq")

_TABLE_FORMATS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Folders inside the tables of formats that keep deleted rows in their Parquet files."""


def read_parquet(path: Path) -> pa.Table:
    """Read one Parquet file.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    # Not pyarrow's read_table, which makes columns of folder names such as `site=3`.
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read()


def read_parquet_folder(path: Path, texts: Collection[str]) -> pa.Table:
    """Read all Parquet files of a folder and its subfolders as one table, ordered by their paths.

    Names of subfolders such as `site=a` become columns. Files and folders whose names begin with
    `_` or `.` are left out, such as Spark's `_SUCCESS`.

    Args:
        texts: columns to read as text, even if the folders' names look like numbers.

    Raises:
        DataError: there is no Parquet file, or reading the files would be wrong.
        OSError, pyarrow.ArrowException: a file cannot be read.
    """
    _require_plain(path)
    files = _files(path)
    if not files:
        raise DataError(
            f"the folder {path} has no Parquet files",
            "Name the file itself, or a folder of Parquet files.",
        )
    options = pyarrow.dataset.FileSystemFactoryOptions(partition_base_dir=str(path))
    options.partitioning_factory = pyarrow.dataset.HivePartitioning.discover()
    factory = _factory(files, options)
    # All files, because a column without a value in the first one has no type there.
    schema = factory.inspect(promote_options="permissive", fragments=None)
    folders = {part.partition("=")[0] for f in files for part in f.relative_to(path).parts[:-1]}
    as_text = [name for name in folders & set(texts) if name in schema.names]
    for name in as_text:  # else 00017 would be 17
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
    if as_text:
        named = [schema.field(name) for name in schema.names if name in folders]
        options.partitioning = pyarrow.dataset.partitioning(pa.schema(named), flavor="hive")
        factory = _factory(files, options)
    return factory.finish(schema).to_table()


def _factory(
    files: list[Path], options: pyarrow.dataset.FileSystemFactoryOptions
) -> pyarrow.dataset.FileSystemDatasetFactory:
    return pyarrow.dataset.FileSystemDatasetFactory(
        pyarrow.fs.LocalFileSystem(),
        [str(file) for file in files],
        pyarrow.dataset.ParquetFileFormat(),
        options,
    )


def _files(folder: Path) -> list[Path]:
    """Return the folder's Parquet files; if no name has such an ending, as in Hive's folders, all
    of its files."""
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
    ]
    named = [path for path in found if path.name.lower().endswith(ENDINGS)]
    return named or [path for path in found if not path.suffix]


def _require_plain(folder: Path) -> None:
    """Raise DataError for a folder whose Parquet files are more, or not yet all, of its table."""
    kinds = [kind for name, kind in _TABLE_FORMATS.items() if (folder / name).exists()]
    kinds += ["Iceberg"] if list(folder.glob("metadata/*.metadata.json")) else []
    if kinds:
        raise DataError(
            f"{folder} is a table in the format {kinds[0]}, whose files also hold deleted rows",
            "Write its present rows as plain Parquet, and name that.",
        )
    if (folder / "_temporary").exists():
        raise DataError(
            f"{folder} is still being written, or its writer failed: it has a folder _temporary",
            "Wait until it is complete, or write it again.",
        )

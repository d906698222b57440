"""Reads Parquet: one file, or a folder of files as Spark, Ray Data, Hive and pandas write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

from blindsum.platform.data.files.parts import (
    Block,
    Part,
    chosen,
    in_parts,
    of_rows,
    only,
    part_size,
)
from blindsum.platform.errors import DataError

ENDINGS = (".parquet", ".parq", ".pq")

_TABLE_FORMATS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""Folders inside the tables of formats that keep deleted rows in their Parquet files."""


def read_parquet(
    path: Path, columns: Collection[str] | None, most: int | None, rows: range
) -> Iterator[Part]:
    """Read one Parquet file.

    Args:
        columns: those to read, if the file has them; None for all.
        most: the most records of a part; None if they are small.
        rows: those to read.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    # Not pyarrow's read_table, which makes columns of folder names such as `site=3`.
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        names = chosen(file.schema_arrow, columns)
        schema = only(file.schema_arrow, names)
        blocks, records = _blocks(file, names, part_size(schema, most)), file.metadata.num_rows
        yield from in_parts(of_rows(blocks, rows), schema, _count(rows, records), most, rows.start)


def count_parquet(path: Path) -> int:
    """Return the number of records of a Parquet file, or of all of a folder. Raises OSError,
    pyarrow.ArrowException."""
    files = _files(path) if path.is_dir() else [path]
    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)


def _count(rows: range, records: int) -> int:
    return len(range(records)[rows.start : rows.stop])


def _blocks(
    file: pyarrow.parquet.ParquetFile, names: list[str] | None, size: int
) -> Iterator[Block]:
    """Yield a file's row groups. Each is read by itself: else Arrow (25.0.1) keeps all that it has
    read."""
    for i in range(file.num_row_groups):
        read = partial(file.iter_batches, size, row_groups=[i], columns=names)
        yield file.metadata.row_group(i).num_rows, read


def read_parquet_folder(
    path: Path,
    texts: Collection[str],
    columns: Collection[str] | None,
    most: int | None,
    rows: range,
) -> Iterator[Part]:
    """Read all Parquet files of a folder and its subfolders as one table, ordered by their paths.

    Names of subfolders such as `site=a` become columns. Files and folders whose names begin with
    `_` or `.` are left out, such as Spark's `_SUCCESS`.

    Args:
        texts: columns to read as text, even if the folders' names look like numbers.
        columns: those to read, if the table has them; None for all.
        most, rows: as of `read_parquet`.

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
    dataset, used = factory.finish(schema), only(schema, chosen(schema, columns))
    batches = of_rows(_of_folder(dataset, used, part_size(used, most)), rows)
    yield from in_parts(batches, used, _count(rows, dataset.count_rows()), most, rows.start)


def _of_folder(dataset: pyarrow.dataset.Dataset, schema: pa.Schema, size: int) -> Iterator[Block]:
    """Yield the row groups of a folder's files. Not by Arrow's own scanner, which reads whole row
    groups ahead."""
    for fragment in dataset.get_fragments():
        of_folders = pyarrow.dataset.get_partition_keys(fragment.partition_expression)
        with pyarrow.parquet.ParquetFile(fragment.path, memory_map=True) as file:
            names = [n for n in schema.names if n in file.schema_arrow.names]
            names = [n for n in names if n not in of_folders]
            for records, read in _blocks(file, names, size):
                yield records, partial(_whole, read, schema, set(names), of_folders)


def _whole(
    read: Callable[[], Iterable[pa.RecordBatch]],
    schema: pa.Schema,
    names: Collection[str],
    of_folders: Mapping[str, object],
) -> Iterator[pa.RecordBatch]:
    """Yield a row group's records with all columns.

    Args:
        names: the columns that the file has; folders' names have others.
    """
    for batch in read():
        columns = [
            batch.column(field.name).cast(field.type)
            if field.name in names
            else _repeated(of_folders.get(field.name), field.type, batch.num_rows)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _repeated(value: object, kind: pa.DataType, records: int) -> pa.Array:
    return pa.nulls(records, kind) if value is None else pa.array([value] * records, kind)


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

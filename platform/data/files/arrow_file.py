"""Reads Arrow's own files: IPC files (Feather), and IPC streams."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.files.parts import Part, chosen, in_parts, only

ENDINGS = (".arrow", ".feather", ".ipc", ".arrows")


def read_arrow(
    path: Path, columns: Collection[str] | None, most: int | None = None
) -> Iterator[Part]:
    """Read an IPC file or an IPC stream, which is mapped into memory.

    Args:
        columns: those to read, if the file has them; None for all.
        most: the most records of a part; None if they are small.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    with pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        names = chosen(reader.schema, columns)
        yield from in_parts(
            _batches(reader, is_file, names), only(reader.schema, names), None, most
        )


def _batches(
    reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader,
    is_file: bool,
    names: list[str] | None,
) -> Iterator[pa.RecordBatch]:
    every = (
        (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
    )
    for batch in every:
        used = batch if names is None else batch.select(names)
        # Unlike Parquet's, its buffers are used as they are: a wrong offset reads foreign memory.
        used.validate(full=True)
        yield used

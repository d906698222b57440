"""Reads Arrow's own files: IPC files (Feather), and IPC streams."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.files.parts import Block, Part, chosen, in_parts, of_rows, only

ENDINGS = (".arrow", ".feather", ".ipc", ".arrows")


def read_arrow(
    path: Path, columns: Collection[str] | None, most: int | None, rows: range
) -> Iterator[Part]:
    """Read an IPC file or an IPC stream, which is mapped into memory.

    Args:
        columns: those to read, if the file has them; None for all.
        most: the most records of a part; None if they are small.
        rows: those to read.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    with _opened(path) as (schema, batches):
        names = chosen(schema, columns)
        used = of_rows(_blocks(batches, names), rows)
        yield from in_parts(used, only(schema, names), None, most, rows.start)


def count_arrow(path: Path) -> int:
    """Return the number of records of an IPC file or stream. Raises OSError,
    pyarrow.ArrowException."""
    with _opened(path) as (_, batches):
        return sum(batch.num_rows for batch in batches)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
    with pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if not is_file:
            stream = pa.ipc.open_stream(file)
            yield stream.schema, stream
            return
        reader = pa.ipc.open_file(file)
        yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))


def _blocks(batches: Iterable[pa.RecordBatch], names: list[str] | None) -> Iterator[Block]:
    for batch in batches:

        def read(batch: pa.RecordBatch = batch) -> list[pa.RecordBatch]:
            used = batch if names is None else batch.select(names)
            # Unlike Parquet's, its buffers are used as they are: a wrong offset reads foreign
            # memory.
            used.validate(full=True)
            return [used]

        yield batch.num_rows, read

"""Reads Arrow's own files: IPC files (Feather), and IPC streams."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

ENDINGS = (".arrow", ".feather", ".ipc", ".arrows")


def read_arrow(path: Path) -> pa.Table:
    """Read an IPC file or an IPC stream.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    with pa.OSFile(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        table = reader.read_all()
    # Unlike Parquet, its buffers are used as they are: a wrong offset would read foreign memory.
    table.validate(full=True)
    return table

"""A process that computes molecules for a silo, and ends with it.

Texts and results go through its standard input and output as frames: a length in eight bytes, then
an Arrow stream. Nothing is pickled, and nothing reaches Ray or a disk. The first frame has the
settings. The process ends when its input ends, and the kernel ends it when the silo's process is
killed while a molecule is being computed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import IO

import pyarrow as pa

_PR_SET_PDEATHSIG = 1


def write_frame(stream: IO[bytes], content: bytes | pa.Buffer) -> None:
    """Write one frame."""
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read one frame; None if the stream has ended."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "little")
    content = stream.read(length)
    return content if len(content) == length else None


def table_frame(table: pa.Table) -> pa.Buffer:
    """Encode a table as the content of a frame."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_of(frame: bytes) -> pa.Table:
    """Decode what `table_frame` encoded."""
    return pa.ipc.open_stream(frame).read_all()


def main(parent: int) -> None:
    """Serve the silo's process, until it ends or closes this process's input.

    Args:
        parent: the silo's process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before the kernel was asked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the silo's process decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory holds records
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries may print
    pa.set_cpu_count(1)
    # RDKit (0.1 s) is imported once the kernel knows when to end this process.
    from blindsum.platform.data.molecule_work import MoleculeWork

    settings = read_frame(source)
    if settings is None:
        return
    compute = MoleculeWork.from_json(settings).compute()
    while (frame := read_frame(source)) is not None:
        write_frame(sink, table_frame(compute(table_of(frame)["text"].to_pylist())))

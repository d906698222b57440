"""The silo's own processes that compute molecules side by side.

They are children of the silo's process, not tasks of Ray: texts of molecules go through pipes, and
so neither into an object store that others can read nor to another node.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Self, cast

import pyarrow as pa

from blindsum.platform.data.molecule_work import MoleculeWork
from blindsum.platform.data.worker_process import read_frame, table_frame, table_of, write_frame
from blindsum.platform.errors import BlindsumError, DataError, without_values

# The child looks for modules exactly where this process does, and nowhere else.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from blindsum.platform.data.worker_process import main; main(int(sys.argv[1]))"
)


class Workers:
    """Processes that compute the same work. They end when the context does.

    Args:
        count: the number of processes.
    """

    def __init__(self, work: MoleculeWork, count: int) -> None:
        self._work, self._count = work, count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        path = [entry or os.getcwd() for entry in sys.path]
        command = [sys.executable, "-P", "-c", _START, str(os.getpid()), *path]
        try:
            for _ in range(self._count):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,  # a message could quote a molecule
                    )
                )
        except OSError as error:
            self._end()
            raise DataError(
                "the processes that compute molecules cannot be started: "
                f"{os.strerror(error.errno or 0)}",
                "Check this machine's memory and its limit of processes.",
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def tables(self, chunks: Sequence[Sequence[str]]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the table of each chunk of texts with the chunk's number, as they are completed.

        Raises:
            DataError: a process died.
            Unexpected: texts or results could not be exchanged with a process.
        """
        waiting: SimpleQueue[int | None] = SimpleQueue()
        done: SimpleQueue[tuple[int, pa.Table] | BlindsumError] = SimpleQueue()
        for number in [*range(len(chunks)), *[None] * self._count]:
            waiting.put(number)

        def serve(process: subprocess.Popen[bytes]) -> None:
            given, taken = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
            try:
                write_frame(given, self._work.to_json())
                while (number := waiting.get()) is not None:
                    texts = pa.table({"text": pa.array(chunks[number], pa.string())})
                    write_frame(given, table_frame(texts))
                    frame = read_frame(taken)
                    if frame is None:
                        raise EOFError
                    done.put((number, table_of(frame)))
            except (OSError, EOFError):
                done.put(
                    DataError(
                        "a process that computes molecules died",
                        "Check this machine's memory. If there is enough, RDKit crashes on one of "
                        "the molecules.",
                    )
                )
            except Exception as error:  # noqa: BLE001 - a thread's traceback could quote a molecule
                done.put(without_values(error))

        for process in self._processes:
            threading.Thread(target=serve, args=(process,), daemon=True).start()
        for _ in chunks:
            found = done.get()
            if isinstance(found, BlindsumError):
                raise found
            yield found

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()
        self._processes = []

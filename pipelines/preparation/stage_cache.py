"""Run a stage with Ray and keep its results: nothing is computed twice, even after an interruption.

Only file names and row numbers go through Ray. Molecules stay in files of mode 0600 in the silo's
state folder, because the object store may spill to a place where others can read.

    prepare/STAGE-DIGEST/part-*.parquet   results, one row per text; a part is complete or missing
    prepare/work-*.arrow                  texts being computed
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from blindsum.platform.data.preparation.stages import Stage
from blindsum.platform.errors import BlindsumError, DataError, without_values

CHUNK = 200
"""Texts in one task: seconds of work, so that an interruption loses little."""

SLACK_S, TEXT_S = 60.0, 2.0
"""Time limit of a task: SLACK_S plus TEXT_S per text. A task over it is split in halves."""

MOST_FAILED = 5
"""Molecules that may fail in one run, by a crash or the time limit; more suggest another cause."""

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]

Done = Callable[[int], None]


class StageCache:
    """A stage's results in a folder. Results in damaged files are computed again."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder / stage.key
        self._work = folder

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without a result."""
        known = set(self._known()["text"].to_pylist())
        return [text for text in texts if text not in known]

    def run(self, texts: Sequence[str], workers: int, done: Done) -> None:
        """Compute the texts, in tasks on the connected Ray.

        Args:
            workers: number of tasks at the same time.
            done: called with the number of texts just completed.

        Raises:
            DataError: the folder cannot be written.
            BlindsumError: a task failed.
        """
        with _named(self._work), self._file(texts) as file:
            _Tasks(self._stage, file, self._folder, done).run(len(texts), workers)

    def table(self, texts: Sequence[str]) -> pa.Table:
        """Return the texts' rows, in their order.

        Raises:
            DataError: a text has no row.
        """
        known = self._known()
        row = {text: i for i, text in enumerate(known["text"].to_pylist())}
        try:
            return known.take(pa.array([row[text] for text in texts], pa.int64()))
        except KeyError:
            raise DataError("a stored result disappeared", "Run the preparation again.") from None

    def _known(self) -> pa.Table:
        """Return all readable rows; remove files with any damage, even in one column."""
        empty = self._stage.compute([])
        parts = [empty]
        for path in sorted(self._folder.glob("part-*.parquet")):
            try:
                with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                    parts.append(file.read().cast(empty.schema))
            except (OSError, ValueError, pa.ArrowException) as error:
                if getattr(error, "errno", None) is None:  # not a system error: the file is damaged
                    with suppress(OSError):
                        path.unlink()  # its molecules are computed again
        return pa.concat_tables(parts)

    @contextmanager
    def _file(self, texts: Sequence[str]) -> Iterator[Path]:
        for folder in (self._work, self._folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._work.glob("work-*.arrow"):  # from a killed run
            host, process = left.name.split("-")[1:3]
            if host == _HOST and not _runs(process):
                left.unlink(missing_ok=True)
        path = self._work / f"work-{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.arrow"
        try:
            table = pa.table({"text": pa.array(texts, pa.string())})
            with (
                open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table)
            yield path
        finally:
            path.unlink(missing_ok=True)


class _Tasks:
    """Ranges of texts as Ray tasks.

    A range whose process dies or exceeds its time limit is split in halves, down to a single text,
    which is tried once more and then counted as failed.
    """

    def __init__(self, stage: Stage, file: Path, folder: Path, done: Done) -> None:
        import ray

        self._stage, self._file, self._folder, self._done = stage, file, folder, done
        self._tried: set[int] = set()
        self._failed = 0
        self._remote: Any = ray.remote(max_retries=0, num_cpus=1)(_compute)

    def run(self, count: int, workers: int) -> None:
        import ray

        waiting = [(a, min(a + CHUNK, count)) for a in range(0, count, CHUNK)][::-1]
        running: dict[Any, tuple[int, int]] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                part = waiting.pop()
                arguments = self._stage, str(self._file), str(self._folder), *part
                running[self._remote.remote(*arguments)] = part
            longest = max(b - a for a, b in running.values())
            ready, late = ray.wait(list(running), timeout=SLACK_S + TEXT_S * longest)
            for reference in ready or late:
                a, b = running.pop(reference)
                if not ready:
                    ray.cancel(reference, force=True)
                if ready and self._ended(reference):
                    self._done(b - a)
                elif b - a == 1 and a in self._tried:
                    self._give_up(a)
                    self._done(1)
                elif b - a == 1:
                    self._tried.add(a)
                    waiting.append((a, b))
                else:
                    middle = (a + b) // 2
                    waiting += [(middle, b), (a, middle)]

    def _ended(self, reference: Any) -> bool:
        import ray

        try:
            failure = ray.get(reference)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            return False
        if failure is not None:
            raise BlindsumError(failure)
        return True

    def _give_up(self, row: int) -> None:
        self._failed += 1
        if self._failed > MOST_FAILED:
            raise DataError(
                "processes that compute molecules keep dying or exceed their time limit: more than "
                f"{MOST_FAILED} molecules failed twice",
                "Check this machine's free memory, and try --workers 1. Finished results are kept.",
            )
        with pa.memory_map(str(self._file)) as source:
            text = pa.ipc.open_file(source).read_all()["text"][row].as_py()
        _write(self._stage.failed(text), self._folder)


def _compute(stage: Stage, file: str, folder: str, start: int, stop: int) -> str | None:
    """Compute one task; return None or an error message: exceptions might carry molecules."""
    try:
        with pa.memory_map(file) as source:
            texts = pa.ipc.open_file(source).read_all()["text"][start:stop].to_pylist()
        _write(stage.compute(texts), Path(folder))
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - its message may quote a molecule
        return str(without_values(error))
    return None


def _write(table: pa.Table, folder: Path) -> None:
    path = folder / f"part-{secrets.token_hex(8)}.parquet"
    partial = path.with_suffix(".partial")
    try:
        with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            pyarrow.parquet.write_table(table, file, write_page_checksum=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:  # another user's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror}", "Set BLINDSUM_HOME to another folder."
        ) from None

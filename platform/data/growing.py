"""Records that are put together part by part, in a file once they are many."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.compact import Compact
from blindsum.platform.errors import DataError

IN_MEMORY = 64 * 2**20
"""The most bytes of an array that stays in memory."""

S = TypeVar("S", bound=npt.NDArray[Any] | Compact)


class GrowingArray:
    """An array to which records are appended.

    Above a size it lies in a file without a name, which nobody else can open and which is gone
    with the process, and is mapped into memory: pages that are not used need none.

    Args:
        folder: where the file is made; None for the system's folder of temporary files.
        in_memory: the most bytes that stay in memory.
    """

    def __init__(self, folder: Path | None, in_memory: int = IN_MEMORY) -> None:
        self._most, self._folder, self._parts = in_memory, folder, list[npt.NDArray[Any]]()
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._records, self._like = 0, np.zeros(0)

    def append(self, part: npt.NDArray[Any]) -> None:
        """Append records, [records, ...], with the dtype and shape of those before.

        Raises:
            DataError: there is no room for the file.
        """
        self._like = part[:0]
        self._records += len(part)
        self._bytes += part.nbytes
        self._parts.append(part)
        if self._file or self._bytes > self._most:
            self._write()

    def whole(self) -> npt.NDArray[Any]:
        """Return all records. Nothing can be appended afterwards."""
        if self._file is None:
            parts = self._parts or [self._like]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        with self._file:
            self._file.flush()
            shape = (self._records, *self._like.shape[1:])
            # Copy on write, and nobody writes: PyTorch warns of arrays that are only to be read.
            return np.memmap(self._file, self._like.dtype, "c", shape=shape)

    def _write(self) -> None:
        try:
            if self._file is None:
                if self._folder:
                    self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (`whole` ends)
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part).data)
        except OSError as error:
            raise DataError(
                f"the prepared records cannot be written in {self._folder or tempfile.gettempdir()}"
                f" ({os.strerror(error.errno or 0)})",
                "Tables above 64 MB are kept there in one file while a job runs, at 4 bytes for "
                "each feature of each record: make room, or give the silo another state folder.",
            ) from None
        self._parts = []


class GrowingRecords(Generic[S]):
    """Features or labels to which records are appended: an array, or records of different lengths.

    Args:
        folder: as of `GrowingArray`.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._arrays = folder, list[GrowingArray]()
        self._like: S | None = None

    def append(self, part: S) -> None:
        """Append records of one kind.

        Raises:
            DataError: there is no room for them.
        """
        arrays: list[Any] = part.arrays if isinstance(part, Compact) else [part]
        if self._like is None:
            self._arrays = [GrowingArray(self._folder) for _ in arrays]
        self._like = part
        for growing, array in zip(self._arrays, arrays, strict=True):
            growing.append(array)

    def whole(self) -> S:
        """Return all records. Nothing can be appended afterwards.

        Raises:
            ValueError: nothing was ever appended, not even no records of some kind.
        """
        if self._like is None:
            raise ValueError("no records of any kind were appended")
        arrays = [growing.whole() for growing in self._arrays]
        return _of(self._like, arrays)


def _of(like: S, arrays: Sequence[npt.NDArray[Any]]) -> S:
    found: Any = like.like(arrays) if isinstance(like, Compact) else arrays[0]
    return found  # type: ignore[no-any-return]

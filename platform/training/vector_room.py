"""Room for vectors as long as a model: in memory, or once they are long in files without names.

A silo keeps several: the newest model and its average, those of the round before, to which it
returns if other silos refuse the total, the server optimizer's state for both, and the sum that it
is decrypting. With 100 million parameters each takes 400 to 800 MB. A file without a name is gone
with the process, nobody else can open it, and the system takes back the memory of the pages that
are not in use.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import DataError
from blindsum.platform.training.vector import put_away

LONGEST_IN_MEMORY = 16 * 2**20
"""The most bytes of a vector that stays in memory."""

BLOCK = 1 << 16
"""Values that are computed at a time, so that temporaries stay in the cache."""


_PUT_AWAY = 16 * BLOCK


def blocks(values: int, *mapped: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield ranges of BLOCK values that together cover a vector.

    Args:
        mapped: vectors of that length that are read or written there. Of those that lie in files,
            only a few megabytes are in memory at a time.
    """
    for start in range(0, values, BLOCK):
        yield slice(start, min(start + BLOCK, values))
        if start % _PUT_AWAY == 0:
            put_away(*mapped)
    put_away(*mapped)


class VectorRoom:
    """A source of vectors.

    Args:
        folder: where files are made; None keeps every vector in memory.
        in_memory: the most bytes of a vector that stays in memory.
    """

    def __init__(self, folder: Path | None, in_memory: int = LONGEST_IN_MEMORY) -> None:
        self._folder, self._in_memory = folder, in_memory

    def zeros(self, values: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return a vector of zeros, [values].

        Raises:
            DataError: there is no room for the file.
        """
        size = values * np.dtype(dtype).itemsize
        if self._folder is None or size <= self._in_memory:
            return np.zeros(values, dtype)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                # Without this, a full disk would end the process when a page is written.
                os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, dtype, "r+", shape=(values,))
        except OSError as error:
            raise DataError(
                f"a vector of {size:,} bytes cannot be kept in {self._folder} "
                f"({os.strerror(error.errno or 0)})",
                "Models above 4 million parameters keep their vectors there while a job runs: make "
                "room, or give the silo another state folder.",
            ) from None

    def like(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return zeros in the shape and type of a vector. Raises DataError as `zeros`."""
        return self.zeros(vector.size, vector.dtype)

    def copy(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a copy of a vector. Raises DataError as `zeros`."""
        found = self.like(vector)
        for where in blocks(vector.size, vector, found):
            found[where] = vector[where]
        return found


IN_MEMORY = VectorRoom(None)
"""Keeps every vector in memory, for simulations and for the driver."""

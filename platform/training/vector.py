"""A model's parameters as a vector, for those who need no torch: the driver of the rounds."""

from __future__ import annotations

import hashlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

_HASHED = 1 << 20  # values that are hashed at a time


def digest(*vectors: Vector) -> str:
    """Return the SHA-256 of the parameters of a model, or of several of the same length, in hex. It
    is equal only if every bit is."""
    found = hashlib.sha256()
    for vector in vectors:
        flat = vector.reshape(-1)
        for start in range(0, flat.size, _HASHED):
            found.update(np.ascontiguousarray(flat[start : start + _HASHED], "<f4").data)
            put_away(flat)
    return found.hexdigest()


def put_away(*vectors: npt.NDArray[Any]) -> None:
    """Return the memory of vectors that are mapped from files. They keep their values, which the
    system reads again when they are next used. Does nothing to vectors in memory."""
    for vector in vectors:
        if isinstance(vector, np.memmap) and (mapped := getattr(vector, "_mmap", None)):
            mapped.madvise(mmap.MADV_DONTNEED)  # shared with the file: no value is lost

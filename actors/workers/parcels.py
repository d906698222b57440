"""The content of a message between a silo and its workers: values, and arrays by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_HEAD = 8


@dataclass(frozen=True)
class Parcel:
    """Values that JSON can hold, and arrays. Private to the silo."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Parcel(private)"


def packed(parcel: Parcel) -> bytes:
    """Return a parcel as bytes: the length of a head in eight bytes, the head in JSON, and the
    arrays one after the other."""
    arrays = {name: np.ascontiguousarray(one) for name, one in parcel.arrays.items()}
    kinds = [(name, one.dtype.str, one.shape) for name, one in arrays.items()]
    head = json.dumps([dict(parcel.values), kinds]).encode()
    contents = (one.reshape(-1).view(np.uint8).data for one in arrays.values())
    return b"".join([len(head).to_bytes(_HEAD, "little"), head, *contents])


def unpacked(content: bytes) -> Parcel:
    """Return the parcel that `packed` wrote. Its arrays can only be read."""
    start = _HEAD + int.from_bytes(content[:_HEAD], "little")
    values, kinds = json.loads(content[_HEAD:start])
    arrays = {}
    for name, kind, shape in kinds:
        dtype = np.dtype(kind)
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(content, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
    return Parcel(values, arrays)

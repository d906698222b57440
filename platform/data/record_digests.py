"""A digest of each record: by it a table is known, and repeated and common records are found.

A digest is BLAKE2b, of 16 bytes. It is of a bit for each column, in the order of their names, that
says whether there is a value; then of the values of numbers and booleans, IEEE 754 doubles with one
zero; then of texts, UTF-8, each with its length. NaN and null are no value, and a column without
values may have any type (`blindsum.platform.data.canonical`). A digest is private: it confirms a
guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.canonical import canonical, doubles, is_numeric

Digests = npt.NDArray[np.void]
"""Of 16 bytes, [records]."""

SIZE = 16
_BLOCK_BYTES = 16 * 2**20
"""Memory of the numbers that are hashed at a time."""


def record_digests(table: pa.Table, keys: Collection[str] = ()) -> tuple[Digests, Digests]:
    """Return two digests of each record, each of 16 bytes, [records]: of all its values, and
    without its keys.

    Args:
        keys: columns that only say in which fold a record lies.
    """
    names = sorted(set(table.column_names) - set(keys))
    others = {n: canonical(table.column(n)) for n in names if not _is_number(table, n)}
    texts = [_encoded(one) for one in others.values()]
    last = [_encoded(canonical(table.column(name))) for name in sorted(keys)]
    whole, without = bytearray(), bytearray()
    for start, is_there, values, ends in _blocks(table, names, others):
        for row, (before, after) in enumerate(pairwise(ends)):
            digest = hashlib.blake2b(is_there[row], digest_size=SIZE)
            digest.update(values[before:after])
            for text in texts:
                digest.update(text[start + row])
            without += digest.digest()
            if last:
                for text in last:
                    digest.update(text[start + row])
                whole += digest.digest()
    found = np.frombuffer(bytes(without), f"V{SIZE}")
    return (np.frombuffer(bytes(whole), f"V{SIZE}") if last else found), found


class _Block(NamedTuple):
    """Consecutive records: the first one's row, each one's bits of the values that are there, the
    numbers among these one after the other, and where each record's begin and the last one's end,
    in bytes."""

    start: int
    is_there: list[bytes]
    values: memoryview
    ends: list[int]


def _blocks(
    table: pa.Table, names: Sequence[str], others: Mapping[str, pa.Array]
) -> Iterator[_Block]:
    is_number = np.array([name not in others for name in names], np.bool_)
    numbers = [name for name in names if name not in others]
    size = max(1, _BLOCK_BYTES // (8 * max(len(names), 1)))
    for start in range(0, table.num_rows, size):
        values = doubles(table.slice(start, size), numbers) + 0.0  # -0.0 becomes 0.0
        there = np.empty((len(values), len(names)), np.bool_)
        there[:, is_number] = ~np.isnan(values)
        for i, name in enumerate(names):
            if name in others:
                there[:, i] = np.array(pc.is_valid(others[name].slice(start, size)))
        is_there = [row.tobytes() for row in np.packbits(there, axis=1)]
        known = there[:, is_number]
        ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))]) * 8
        yield _Block(start, is_there, values[known].astype("<f8").data.cast("B"), ends.tolist())


def _is_number(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return is_numeric(kind) or bool(pa.types.is_null(kind))


def _encoded(column: pa.Array) -> list[bytes]:
    """Return the bytes of each value, which tell where they end; none for a gap."""
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False).astype("<f8")
        return [b"" if np.isnan(one) else one.tobytes() for one in numbers]
    values = column.dictionary_encode()
    texts = [
        text if isinstance(text, bytes) else text.encode() for text in values.dictionary.to_pylist()
    ]
    encoded = [len(text).to_bytes(8, "little") + text for text in texts]
    return [b"" if at is None else encoded[at] for at in values.indices.to_pylist()]

"""A digest of each record: by it a table is known, and repeated and common records are found.

A digest is BLAKE2b, of 16 bytes. It is of a bit for each column, in the order of their names, that
says whether there is a value; then of the values of numbers and booleans, IEEE 754 doubles with one
zero; then of texts, UTF-8, each with its length. NaN and null are no value, and a column without
values may have any type (`blindsum.platform.data.canonical`). A digest is private: it confirms a
guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.canonical import canonical

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
    columns = [canonical(table.column(n)) for n in sorted(set(table.column_names) - set(keys))]
    texts = [_encoded(one) for one in columns if not pa.types.is_floating(one.type)]
    last = [_encoded(canonical(table.column(name))) for name in sorted(keys)]
    whole, without = bytearray(), bytearray()
    for start, is_there, values, ends in _blocks(columns, table.num_rows):
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


def _blocks(columns: Sequence[pa.Array], records: int) -> Iterator[_Block]:
    numbers = np.array([pa.types.is_floating(one.type) for one in columns], np.bool_)
    size = max(1, _BLOCK_BYTES // (8 * max(len(columns), 1)))
    for start in range(0, records, size):
        block = np.zeros((min(size, records - start), len(columns)), "<f8")
        for i, column in enumerate(columns):
            part = column.slice(start, size)
            # A gap becomes NaN.
            block[:, i] = (
                part.to_numpy(zero_copy_only=False)
                if numbers[i]
                else pc.if_else(pc.is_null(part), np.nan, 0.0).to_numpy(zero_copy_only=False)
            )
        there = ~np.isnan(block)
        is_there = [row.tobytes() for row in np.packbits(there, axis=1)]
        there &= numbers
        ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))]) * 8
        yield _Block(start, is_there, block[there].data.cast("B"), ends.tolist())


def _encoded(column: pa.Array) -> list[bytes]:
    """Return the bytes of each value, which tell where they end; none for a gap."""
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False).astype("<f8")
        return [b"" if np.isnan(one) else one.tobytes() for one in numbers]
    values = column.dictionary_encode()
    texts = [text.encode() for text in values.dictionary.to_pylist()]
    encoded = [len(text).to_bytes(8, "little") + text for text in texts]
    return [b"" if at is None else encoded[at] for at in values.indices.to_pylist()]

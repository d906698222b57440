"""Tables that are read part by part, so that memory does not grow with the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

PART_BYTES, LEAST_RECORDS = 24 * 2**20, 512
"""About the memory of a part's values, and the least number of its records: each column of each
part takes time."""

_OF_A_TEXT = 64
"""Bytes that a text or a list is taken to need; a number needs 8 when it is worked on."""


EVERY = range(sys.maxsize)
"""All rows of a table, however many there are."""

Block = tuple[int, Callable[[], Iterable[pa.RecordBatch]]]
"""Consecutive records of a file that can be left out: their number, and a way to read them."""


class Part(NamedTuple):
    """Consecutive records of a table, the share of the work that is read after them, 0 to 1, and
    the number of the first one's row, from 0."""

    table: pa.Table
    share: float
    first: int


def part_size(schema: pa.Schema, most: int | None = None) -> int:
    """Return the number of records of a part.

    Args:
        most: the most records; None if they are small.
    """
    of_record = sum(_bytes(kind) for kind in schema.types)
    size = max(LEAST_RECORDS, PART_BYTES // max(of_record, 1))
    return min(size, most or size)


def _bytes(kind: pa.DataType) -> int:
    try:
        return max(8, int(kind.bit_width) // 8)
    except ValueError:  # of values of different lengths
        return _OF_A_TEXT


def chosen(schema: pa.Schema, columns: Collection[str] | None) -> list[str] | None:
    """Return the columns to read, in the file's order; None for all that it has.

    All are read if one is missing or a name is there twice: whoever looks for the columns sees
    that, and the names that are nearly theirs.
    """
    names, wanted = schema.names, set(columns or ())
    if not wanted or not wanted <= set(names) or len(set(names)) < len(names):
        return None
    return [name for name in names if name in wanted]


def only(schema: pa.Schema, names: list[str] | None) -> pa.Schema:
    """Return the schema of those columns; None for all."""
    if names is None:
        return schema
    return pa.schema([schema.field(name) for name in names], schema.metadata)


def of_rows(blocks: Iterable[Block], rows: range) -> Iterator[pa.RecordBatch]:
    """Yield those rows of a file. A block without any of them is not read."""
    start = 0
    for records, read in blocks:
        if start >= rows.stop:
            return
        if start + records > rows.start:
            at = start
            for batch in read():
                lower, upper = max(rows.start - at, 0), min(rows.stop - at, batch.num_rows)
                if lower < upper:
                    yield batch.slice(lower, upper - lower)
                at += batch.num_rows
                if at >= rows.stop:
                    break
        start += records


def in_parts(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    records: int | None,
    most: int | None = None,
    first: int = 0,
) -> Iterator[Part]:
    """Yield parts of about the same size, at least one, which may be empty.

    Args:
        records: those of all batches, if they are known.
        most: as of `part_size`.
        first: the number of the first one's row.
    """
    size, waiting, count, done = part_size(schema, most), list[pa.RecordBatch](), 0, 0
    for batch in batches:
        for start in range(0, batch.num_rows, size):
            waiting.append(batch.slice(start, size))
            count += waiting[-1].num_rows
            if count >= size:
                share = (done + count) / records if records else 0
                yield Part(pa.Table.from_batches(waiting, schema), share, first + done)
                done += count
                waiting, count = [], 0
    if waiting or not done:
        yield Part(pa.Table.from_batches(waiting, schema), 1.0, first + done)

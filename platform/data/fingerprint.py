"""A table's fingerprint: it identifies the records, whichever program wrote the file.

It is SHA-256 of the columns' names and of the records' digests in ascending order
(`blindsum.platform.data.record_digests`), so that the order of rows and columns does not matter. A
fingerprint is private: it would confirm a guess of the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.canonical import (
    as_text,
    canonical,
    is_bytes,
    is_numeric,
    one_chunk,
)
from blindsum.platform.data.computing import Computing
from blindsum.platform.data.growing import GrowingArray
from blindsum.platform.data.kept_results import content_digest
from blindsum.platform.data.record_digests import SIZE, Digests
from blindsum.platform.data.record_order import record_order

VERSION, _VERSION_2 = b"blindsum fingerprint 3\0", b"blindsum fingerprint 2\0"
_KEPT = pa.schema([("earlier", pa.list_(pa.string()))])
SHARES = 64
"""Digests are sorted in so many parts, by how they begin."""


class Fingerprint:
    """The fingerprint of a table whose records come part by part.

    Args:
        folder: for files without a name that hold the digests of many records; as of
            `blindsum.platform.data.growing.GrowingArray`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._names = list[str]()
        self._sorted = [GrowingArray(folder, 2**20) for _ in range(SHARES)]

    def add(self, names: Collection[str], digests: Digests) -> None:
        """Take further records of a table with those columns."""
        self._names = sorted(names)
        which = digests.view(np.uint8).reshape(-1, SIZE)[:, 0] // (256 // SHARES)
        for share, growing in enumerate(self._sorted):
            growing.append(digests[which == share])

    @property
    def names(self) -> list[str]:
        """The columns; none if there are no records yet."""
        return self._names

    def parts(self) -> Iterator[Digests]:
        """Yield the records' digests in SHARES parts, by how they begin. Nothing can be added
        afterwards."""
        for growing in self._sorted:
            digests = growing.whole()
            yield digests if len(digests) else np.zeros(0, f"V{SIZE}")

    def hexdigest(self) -> str:
        """Return the fingerprint, a SHA-256 digest. Nothing can be added afterwards."""
        return fingerprint_of(self._names, self.parts())


def fingerprint_of(names: Iterable[str], parts: Iterable[Digests]) -> str:
    """Return the fingerprint of a table with those columns, in their order.

    Args:
        parts: as `Fingerprint.parts`.
    """
    found = hashlib.sha256(VERSION)
    found.update("".join(f"{name}\0" for name in names).encode())
    for digests in parts:
        halves = digests.view(">u8").reshape(-1, 2)
        found.update(digests[np.lexsort((halves[:, 1], halves[:, 0]))].tobytes())
    return found.hexdigest()


def earlier_fingerprints(table: pa.Table) -> tuple[str, ...]:
    """Return the fingerprints that earlier versions gave a table: versions 2 and 1. The latter
    depended on the types of columns, so it is computed with text both as `string` and as
    `large_string`.

    Returns:
        SHA-256 digests, hex.
    """
    columns = dict(sorted(zip(table.column_names, table.columns, strict=True)))
    return _version_2(columns), *_version_1(columns)


def _version_2(columns: dict[str, pa.ChunkedArray]) -> str:
    arrays = [canonical(column) for column in columns.values()]
    order = record_order(arrays)
    digest = hashlib.sha256(_VERSION_2)
    digest.update("".join(f"{name}\0" for name in columns).encode())
    for column in arrays:
        gaps = np.zeros(len(column), np.uint8)
        if column.null_count:
            gaps = np.array(pc.is_null(column), np.uint8)[order]
        digest.update(gaps.tobytes())
        if pa.types.is_floating(column.type):
            values = column.fill_null(0.0) if column.null_count else column
            digest.update(values.to_numpy().astype("<f8")[order].tobytes())
            continue
        texts = column.fill_null("").to_pylist()
        for text in (texts[i] for i in order):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def fingerprints_before(table: pa.Table, computing: Computing) -> tuple[str, ...]:
    """Return the fingerprints that earlier versions gave a whole table; none if it has pictures,
    which they did not know."""
    if any(map(is_bytes, table.schema.types)):
        return ()
    return kept_fingerprints(table, computing)


def kept_fingerprints(table: pa.Table, computing: Computing) -> tuple[str, ...]:
    """Return what `earlier_fingerprints` does; what was kept for the same content is not computed
    again.

    Args:
        computing: the silo's means.
    """
    if computing.kept is None:
        return earlier_fingerprints(table)
    inputs = ["earlier fingerprints", _VERSION_2.decode(), content_digest(table)]
    if (known := computing.known(inputs, _KEPT, 1)) is None:
        known = pa.table([[list(earlier_fingerprints(table))]], schema=_KEPT)
        computing.keep(inputs, known)
    return tuple(known["earlier"][0].as_py())


def _version_1(columns: dict[str, pa.ChunkedArray]) -> tuple[str, ...]:
    """Return the fingerprints that every version before the owner's file computed: with text as
    `string`, and as `large_string` if they differ."""
    arrays = [_with_plain_text(column) for column in columns.values()]
    order = pa.array(record_order(arrays))
    digests = [hashlib.sha256(), hashlib.sha256()]
    for name, array in zip(columns, arrays, strict=True):
        values = array.take(order)
        if is_numeric(values.type):
            values = pc.cast(values, pa.float64(), safe=False)
        if pa.types.is_string(values.type) and not pa.types.is_list(columns[name].type):
            forms = [values, values.cast(pa.large_string())]
        else:
            forms = [values]
        written = [_written(form) for form in forms]
        for digest, content in zip(digests, (written[0], written[-1]), strict=True):
            digest.update(f"{name}\0".encode())
            digest.update(content)
    return tuple(dict.fromkeys(digest.hexdigest() for digest in digests))


def _with_plain_text(column: pa.ChunkedArray) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if _is_text(kind):
        column = column.cast(pa.string())
    array = one_chunk(column)
    return as_text(array) if pa.types.is_list(kind) else array


def _written(values: pa.Array) -> memoryview:
    """Return a column as an Arrow stream, which was what earlier fingerprints hashed."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], names=["values"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )

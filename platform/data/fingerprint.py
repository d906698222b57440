"""A table's fingerprint: it identifies the records, whichever program wrote the file.

Values are hashed in one canonical form. Text is UTF-8 whether its column is `string`,
`large_string`, `string_view` or dictionary-encoded. Numbers and booleans are IEEE 754 doubles with
one zero. NaN and null are both a gap, and an untyped empty column is a column of gaps. The order of
rows and columns does not matter. A fingerprint is private: it would confirm a guess of the table.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.computing import Computing
from blindsum.platform.data.kept_results import content_digest
from blindsum.platform.data.record_order import record_order

VERSION = b"blindsum fingerprint 2\0"
_KEPT = pa.schema([("newest", pa.string()), ("earlier", pa.list_(pa.string()))])


def fingerprints(table: pa.Table) -> tuple[str, tuple[str, ...]]:
    """Return the table's fingerprint, and those that earlier versions gave the same records.

    Earlier fingerprints depended on the types of columns, so they are computed with text both as
    `string` and as `large_string`.

    Returns:
        SHA-256 digests, hex.
    """
    columns = dict(sorted(zip(table.column_names, table.columns, strict=True)))
    return _version_2(columns), _version_1(columns)


def _version_2(columns: dict[str, pa.ChunkedArray]) -> str:
    arrays = [canonical(column) for column in columns.values()]
    order = record_order(arrays)
    digest = hashlib.sha256(VERSION)
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


def kept_fingerprints(table: pa.Table, computing: Computing) -> tuple[str, tuple[str, ...]]:
    """Return what `fingerprints` does; what was kept for the same content is not computed again.

    Args:
        computing: the silo's means.
    """
    if computing.kept is None:
        return fingerprints(table)
    inputs = ["fingerprints", VERSION.decode(), content_digest(table)]
    if (known := computing.known(inputs, _KEPT, 1)) is None:
        newest, earlier = fingerprints(table)
        known = pa.table([[newest], [list(earlier)]], schema=_KEPT)
        computing.keep(inputs, known)
    return known["newest"][0].as_py(), tuple(known["earlier"][0].as_py())


def canonical(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's values in one form: float64 with one zero and without NaN, or `string`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    array = _one_chunk(column)
    if pa.types.is_list(kind):
        return _as_text(array)
    if pa.types.is_null(kind):
        return array.cast(pa.float64())
    if _is_numeric(kind):
        values = pc.cast(array, pa.float64(), safe=False)
        if values.null_count:
            values = pc.if_else(pc.is_nan(values), None, values)
            return pc.add(values, 0.0)  # -0.0 becomes 0.0
        found = values.to_numpy() + 0.0  # without nulls, numpy does the same much faster
        return pa.array(found, from_pandas=bool(np.isnan(found).any()))
    return array.cast(pa.string())


def _version_1(columns: dict[str, pa.ChunkedArray]) -> tuple[str, ...]:
    """Return the fingerprints that every version before the owner's file computed: with text as
    `string`, and as `large_string` if they differ."""
    arrays = [_with_plain_text(column) for column in columns.values()]
    order = pa.array(record_order(arrays))
    digests = [hashlib.sha256(), hashlib.sha256()]
    for name, array in zip(columns, arrays, strict=True):
        values = array.take(order)
        if _is_numeric(values.type):
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
    array = _one_chunk(column)
    return _as_text(array) if pa.types.is_list(kind) else array


def _written(values: pa.Array) -> memoryview:
    """Return a column as an Arrow stream, which was what earlier fingerprints hashed."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], names=["values"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _as_text(positions: pa.Array) -> pa.Array:
    """Return lists of positions as text, which Arrow can sort."""
    return pc.binary_join(pc.cast(positions, pa.list_(pa.string())), " ")


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )

"""A table's fingerprint: it identifies the records, whichever program wrote the file.

Values are hashed in one canonical form. Text is UTF-8 whether its column is `string`,
`large_string`, `string_view` or dictionary-encoded. Numbers and booleans are IEEE 754 doubles with
one zero. NaN and null are both a gap, and an untyped empty column is a column of gaps. The order of
rows and columns does not matter. A fingerprint is private: it would confirm a guess of the table.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

VERSION = b"blindsum fingerprint 2\0"


def fingerprints(table: pa.Table) -> tuple[str, tuple[str, ...]]:
    """Return the table's fingerprint, and those that earlier versions gave the same records.

    Earlier fingerprints depended on the types of columns, so they are computed with text both as
    `string` and as `large_string`.

    Returns:
        SHA-256 digests, hex.
    """
    names = sorted(table.column_names)
    columns = pa.table({name: canonical(table.column(name)) for name in names})
    digest = hashlib.sha256(VERSION)
    for name in names:
        digest.update(f"{name}\0".encode())
    ordered = columns.sort_by([(name, "ascending") for name in names])
    for name in names:
        column = ordered.column(name).combine_chunks()
        gaps = pc.is_null(column)
        digest.update(gaps.cast(pa.uint8()).to_numpy().tobytes())
        if pa.types.is_floating(column.type):
            digest.update(column.fill_null(0.0).to_numpy().astype("<f8").tobytes())
            continue
        for text in column.fill_null("").to_pylist():
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest(), _earlier(table)


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column's values in one form: float64 with one zero and without NaN, or `string`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind):  # positions of bits: as text, which Arrow can sort
        flat = pc.cast(column.combine_chunks(), pa.list_(pa.string()))
        return pa.chunked_array([pc.binary_join(flat, " ")])
    if pa.types.is_null(kind):
        return column.cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = pc.cast(column, pa.float64(), safe=False)
        values = pc.if_else(pc.is_nan(values), None, values)
        return pc.add(values, 0.0)  # -0.0 becomes 0.0
    return column.cast(pa.string())


def _earlier(table: pa.Table) -> tuple[str, ...]:
    found = []
    for text in (pa.string(), pa.large_string()):
        columns = {}
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            columns[name] = column.cast(text) if _is_text(column.type) else column
        found.append(_version_1(pa.table(columns)))
    return tuple(dict.fromkeys(found))


def _version_1(table: pa.Table) -> str:
    """Return the fingerprint that every version before the owner's file computed."""
    ordered: Any = table.select(sorted(table.column_names))
    for i, name in enumerate(ordered.column_names):
        if pa.types.is_list(ordered.schema.field(name).type):
            texts = pc.cast(ordered.column(name).combine_chunks(), pa.list_(pa.string()))
            ordered = ordered.set_column(i, name, pc.binary_join(texts, " "))
    ordered = ordered.sort_by([(name, "ascending") for name in ordered.column_names])
    digest = hashlib.sha256()
    for name in ordered.column_names:
        digest.update(f"{name}\0".encode())
        values = ordered.column(name).combine_chunks()
        kind = values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            values = pc.cast(values, pa.float64(), safe=False)
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([values], names=["values"])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        digest.update(memoryview(sink.getvalue()))
    return digest.hexdigest()


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )

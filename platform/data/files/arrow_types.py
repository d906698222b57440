"""Turns the many Arrow types that programs write into the few that the rest of Blindsum knows.

Text is `string` or `large_string`; numbers are integers, `float` and `double`; lists are `list`.
What a column's values mean never changes: whole numbers do not become text, nor text numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.errors import DataError

_EXACT_DIGITS = 15
"""Decimals of so many digits become the nearest double by a division, longer ones by their text."""


def plain(table: pa.Table, expected: Mapping[str, str], path: Path) -> pa.Table:
    """Return the table with the values of some columns in plain types. Others stay as they are.

    Args:
        expected: these columns' names, each with what is expected in the words of
            `blindsum.platform.data.columns.ColumnType`: "text", "a number", "an integer".

    Raises:
        DataError: bytes where text is expected are not UTF-8.
    """
    arrays, names = table.columns, table.column_names
    for i, name in enumerate(names):
        if name in expected and not _is_plain(arrays[i].type):
            arrays[i] = _as_expected(_decoded(arrays[i]), expected[name], name, path)
    return pa.Table.from_arrays(arrays, names, metadata=table.schema.metadata)


def _is_plain(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_float64(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values without the ways in which Arrow shortens or labels them."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        texts = [[one and str(one) for one in chunk.to_pylist()] for chunk in column.chunks]
        return pa.chunked_array(texts, pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        return _decoded(pa.chunked_array(chunks, kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _decoded(column.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return _decoded(pc.run_end_decode(column))
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return column.cast(pa.list_(kind.value_type))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # Arrow's cast (25.0.1) leaves the last offset out.
        return pa.chunked_array([column.to_pylist()], pa.list_(kind.value_type))
    return column


def _as_expected(column: pa.ChunkedArray, expected: str, name: str, path: Path) -> pa.ChunkedArray:
    kind = column.type
    text, whole = expected.startswith("text"), "integer" in expected or "whole" in expected
    if pa.types.is_decimal(kind) and (whole or not text):
        return _whole(column) if whole and kind.scale <= 0 else _double(column)
    if pa.types.is_boolean(kind) and "number" in expected and not whole:
        return column.cast(pa.int8())
    if _is_bytes(kind) and text:
        try:
            return column.cast(pa.large_binary()).cast(pa.large_string())
        except pa.ArrowException:
            raise DataError(
                f"{path.name}: column '{name}' is text stored as bytes that are not UTF-8",
                "Save the file as UTF-8, or set data.csv.encoding for a CSV.",
                at_silo=_first_not_utf8(column),
            ) from None
    return column


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _first_not_utf8(column: pa.ChunkedArray) -> str:
    for row, content in enumerate(column.to_pylist(), 1):
        try:
            (content or b"").decode()
        except UnicodeDecodeError:
            return f"Row {row} (from 1, below a header) is the first one of them: {content!r}."
    return ""


def _double(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type.precision <= _EXACT_DIGITS:
        return column.cast(pa.float64())
    return column.cast(pa.string()).cast(pa.float64())


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowException:  # beyond 64 bits: refused by its type
        return column

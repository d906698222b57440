"""The one form of a column's values, whichever program wrote them.

Text is `string`, whether its column is `string`, `large_string`, `string_view` or has a dictionary.
Numbers and booleans are IEEE 754 doubles with one zero. NaN and null are both a gap, and an untyped
empty column is a column of gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def canonical(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's values in one form: float64 with one zero and without NaN, or `string`."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    array = one_chunk(column)
    if pa.types.is_list(kind):
        return as_text(array)
    if pa.types.is_null(kind):
        return array.cast(pa.float64())
    if is_numeric(kind):
        values = pc.cast(array, pa.float64(), safe=False)
        if values.null_count:
            values = pc.if_else(pc.is_nan(values), None, values)
            return pc.add(values, 0.0)  # -0.0 becomes 0.0
        found = values.to_numpy() + 0.0  # without nulls, numpy does the same much faster
        return pa.array(found, from_pandas=bool(np.isnan(found).any()))
    return array if is_bytes(kind) else array.cast(pa.string())


def doubles(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns of numbers and booleans side by side, float64 [records, columns], with NaN for
    a gap. As `canonical` for each of them, much faster for thousands, but a zero may be negative.
    """
    found = np.empty((table.num_rows, len(names)))
    kinds: dict[pa.DataType, list[int]] = {}
    for i, name in enumerate(names):
        kinds.setdefault(table.schema.field(name).type, []).append(i)
    for kind, at in kinds.items():
        chosen = table.select([names[i] for i in at])
        if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
            chosen = chosen.cast(pa.schema([(names[i], pa.float64()) for i in at]))
        for start, batch in _whole_batches(chosen):
            # Arrow's tensors of one type are exact, or doubles where that type is wider.
            values = batch.to_tensor(null_to_nan=True).to_numpy()
            found[start : start + batch.num_rows, at] = values
    return found


def _whole_batches(table: pa.Table) -> Iterator[tuple[int, pa.RecordBatch]]:
    start = 0
    for batch in table.combine_chunks().to_batches():
        yield start, batch
        start += batch.num_rows


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_text(positions: pa.Array) -> pa.Array:
    """Return lists of positions as text, which Arrow can sort."""
    return pc.binary_join(pc.cast(positions, pa.list_(pa.string())), " ")


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values of a type are neither numbers nor text."""
    return bool(pa.types.is_large_binary(kind))


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values of a type count as numbers."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )

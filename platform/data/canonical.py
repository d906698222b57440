"""The one form of a column's values, whichever program wrote them.

Text is `string`, whether its column is `string`, `large_string`, `string_view` or has a dictionary.
Numbers and booleans are IEEE 754 doubles with one zero. NaN and null are both a gap, and an untyped
empty column is a column of gaps.
"""

from __future__ import annotations

import numpy as np
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
    return array.cast(pa.string())


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_text(positions: pa.Array) -> pa.Array:
    """Return lists of positions as text, which Arrow can sort."""
    return pc.binary_join(pc.cast(positions, pa.list_(pa.string())), " ")


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values of a type count as numbers."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )

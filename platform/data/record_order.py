"""The order of records by which a table's fingerprint does not depend on the order of its rows.

It is the order of `pyarrow.Table.sort_by` over all columns, ascending. Arrow looks every sort key
up among all columns, so that its own sort by all of them takes time with the square of their
number. Here a few columns sort the records, and the next few only those that are still tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_FIRST, _MOST = 4, 64
"""Columns of the first step, which nearly always tell all records apart, and of a later one."""


def record_order(columns: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Return the row numbers, int64 [records], in ascending order of the columns: first by the
    first column, and so on. NaN follows the numbers, and null follows NaN. Rows that are equal in
    all columns keep their order.

    Args:
        columns: numbers, booleans, text or null, all of one length.
    """
    rows = len(columns[0]) if columns else 0
    order = np.arange(rows)
    begins = np.arange(rows) == 0  # of each place in `order`: not tied with the place before it
    start, step = 0, _FIRST
    while start < len(columns):
        tied = np.flatnonzero(~begins | ~np.append(begins[1:], True))
        if not len(tied):
            break
        rows_tied = pa.array(order[tied])
        chosen = [_sortable(one).take(rows_tied) for one in columns[start : start + step]]
        # Tied records lie side by side, so that they fill the same places again when sorted.
        groups = pa.array(np.cumsum(begins)[tied])
        keys = pa.table([groups, *chosen], [str(i) for i in range(len(chosen) + 1)])
        by = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
        order[tied] = order[tied][by.to_numpy()]
        for column in chosen:
            begins[tied[1:]] |= _differs(column.take(by))
        start, step = start + step, min(2 * step, _MOST)
    return order


def _sortable(column: pa.Array) -> pa.Array:
    # Arrow's sort takes no column without a type; all its records are tied.
    return column.cast(pa.int8()) if pa.types.is_null(column.type) else column


def _differs(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Return bool [records - 1]: whether a record differs from the one before it, as a sort sees
    it: gaps are equal, and so are two NaNs."""
    if pa.types.is_floating(column.type) and not column.null_count:
        values = column.to_numpy()
        before, after = values[:-1], values[1:]
        differs: npt.NDArray[np.bool_] = (before != after) & ~(np.isnan(before) & np.isnan(after))
        return differs
    before, after = column.slice(0, len(column) - 1), column.slice(1)
    unequal = pc.not_equal(before, after)
    if pa.types.is_floating(column.type):
        unequal = pc.and_not(unequal, pc.and_(pc.is_nan(before), pc.is_nan(after)))
    gaps = np.array(pc.xor(pc.is_null(before), pc.is_null(after)), np.bool_)
    return np.array(pc.fill_null(unequal, False), np.bool_) | gaps

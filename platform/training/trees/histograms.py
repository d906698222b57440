"""Sums of gradients over a silo's records, by node, feature and bin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Bins = npt.NDArray[np.uint8]

_BLOCK = 1 << 14
"""Records whose indices and gradients stay in the cache while all features are summed."""


def by_bin(
    bins: Bins, nodes: npt.NDArray[np.intp], count: int, g: Reals, h: Reals, most: int
) -> Reals:
    """Return sums of g and h, float64 [count, F, most, 2].

    Args:
        bins: of each record's features, uint8 [B, F], each below `most`. It is fastest if the
            values of a feature lie side by side (order F).
        nodes: of each record, [B]: from 0 to `count` - 1, or `count` for those in none.
        g, h: of each record, [B].
    """
    records, features = bins.shape
    # One addition of complex numbers adds g and h, each exactly as it would by itself.
    sums = np.zeros((features, (count + 1) * most), np.complex128)
    offsets, values = nodes * np.intp(most), np.empty(records, np.complex128)
    values.real, values.imag = g, h
    where = np.empty(_BLOCK, np.intp)
    for start in range(0, records, _BLOCK):
        block = slice(start, min(start + _BLOCK, records))
        cells = where[: block.stop - start]
        for feature in range(features):
            np.add(offsets[block], bins[block, feature], out=cells)
            np.add.at(sums[feature], cells, values[block])
    found = sums.view(np.float64).reshape(features, count + 1, most, 2)[:, :count]
    return np.ascontiguousarray(found.swapaxes(0, 1))


def by_node(nodes: npt.NDArray[np.intp], count: int, g: Reals, h: Reals) -> Reals:
    """Return sums of g and h, float64 [count, 2]."""
    return np.stack([np.bincount(nodes, one, count + 1)[:count] for one in (g, h)], 1)

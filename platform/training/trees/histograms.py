"""Sums of gradients over a silo's records, by node, feature and bin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Bins = npt.NDArray[np.uint8]


def by_bin(
    bins: Bins, nodes: npt.NDArray[np.intp], count: int, g: Reals, h: Reals, most: int
) -> Reals:
    """Return sums of g and h, float64 [count, F, most, 2].

    Args:
        bins: of each record's features, uint8 [B, F], each below `most`.
        nodes: of each record, [B]: from 0 to `count` - 1, or `count` for those in none.
        g, h: of each record, [B].
    """
    features = bins.shape[1]
    sums = np.zeros((count, features, most, 2))
    if not len(nodes):
        return sums
    offsets = nodes * most
    for feature in range(features):
        where = offsets + bins[:, feature]
        for i, values in enumerate((g, h)):
            found = np.bincount(where, values, (count + 1) * most)
            sums[:, feature, :, i] = found[: count * most].reshape(count, most)
    return sums


def by_node(nodes: npt.NDArray[np.intp], count: int, g: Reals, h: Reals) -> Reals:
    """Return sums of g and h, float64 [count, 2]."""
    return np.stack([np.bincount(nodes, one, count + 1)[:count] for one in (g, h)], 1)

"""The functions of single features whose sum a forest of `split: cyclic` is, with their noise.

A tree that splits one feature only is a step function of it. Those of the same feature and output
add up to a function with a step at each public edge, and its sum over the features is the output.

Given the covers, which are released, noise of the public deviation s in G moves the value of a
leaf, -rate G / (H + lambda), by a Gaussian of the deviation

    rate s / (H + lambda)

Leaves of different trees have independent noise, so that the variances of the trees add up at
each step. Later trees see what earlier noise did, and correct a little of it; the band does not
count on that. It says nothing about other records that the silos might have had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.trees.bins import Bins
from blindsum.platform.training.trees.forest import OneTree

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What a feature adds to an output.

    Attributes:
        feature: its number.
        edges: of its bins, ascending, float32 [bins - 1].
        values: what each bin adds to the output, float64 [bins]; after them that of a gap, if the
            feature may be missing.
        deviations: of the noise in each value, float64, as `values`; all 0 without noise.
        may_miss: whether the last value is that of a gap.
    """

    feature: int
    edges: npt.NDArray[np.float32]
    values: Reals
    deviations: Reals
    may_miss: bool


def shapes(
    trees: list[OneTree],
    bins: Bins,
    *,
    unit: float,
    step: float,
    reg_lambda: float,
    deviation: float,
) -> list[Shape]:
    """Return the functions of the features that the trees of one output use, in their order.

    Args:
        trees: of one feature each; those that are not grown yet are left out.
        unit: by which values are multiplied.
        step: the learning rate, in the unit of the functions' values.
        deviation: s, of the noise in the sums of g.
    """
    found: dict[int, Shape] = {}
    for one in trees:
        feature = int(one.feature[0])
        if feature < 0 or not one.value.any():
            continue
        if feature not in found:
            found[feature] = _nothing(feature, bins)
        shape = found[feature]
        leaves = _leaves(one, shape)
        bottom = one.cover.astype(np.float64) + reg_lambda
        noise = np.divide(step * deviation, bottom, out=np.zeros_like(bottom), where=bottom > 0)
        shape.values[:] += unit * one.value[leaves].astype(np.float64)
        shape.deviations[:] = np.hypot(shape.deviations, noise[leaves])
    return [found[feature] for feature in sorted(found)]


def _nothing(feature: int, bins: Bins) -> Shape:
    edges = np.asarray(bins.edges[feature])
    may_miss = bins.have_gaps and bool(bins.may_miss[feature])
    count = len(edges) + 1 + may_miss
    return Shape(feature, edges, np.zeros(count), np.zeros(count), may_miss)


def _leaves(one: OneTree, shape: Shape) -> npt.NDArray[np.intp]:
    """Return the leaf of each bin, and of a gap."""
    inside = np.concatenate([[-np.inf], shape.edges, [np.nan] * shape.may_miss])
    nodes, inner = np.zeros(len(inside), np.intp), len(one.feature)
    while nodes[0] < inner:
        right = inside >= one.threshold[nodes]
        if shape.may_miss:
            right |= np.isnan(inside) & (one.default_left[nodes] == 0)
        nodes = 2 * nodes + 1 + right
    return nodes - inner

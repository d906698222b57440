"""How a tree grows from summed gradients: the same in every silo, bit for bit.

Chen and Guestrin, KDD 2016, equations 5 and 7, with L1 (alpha) and L2 (lambda) as in XGBoost:

    value of a leaf    -S(G) / (H + lambda)
    gain of a split    S(GL)^2 / (HL + lambda) + S(GR)^2 / (HR + lambda) - S(G)^2 / (H + lambda)
    S(G)               G moved towards zero by alpha, at most to zero

Only operations whose rounding IEEE 754 defines, so that processors agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.trees.bins import Bins
from blindsum.platform.training.trees.forest import (
    BEYOND,
    NO_SPLIT,
    OneTree,
    leftmost_leaf,
)

Reals = npt.NDArray[np.float64]
LEAST_GAIN = 1e-6
"""XGBoost splits from this gain on."""


@dataclass(frozen=True)
class Growth:
    """The settings of growth, the public edges of bins, the learning rate, by which values are
    multiplied, and lambda."""

    section: Boosted
    bins: Bins
    rate: float
    reg_lambda: float

    def leaf(self, sums: Reals) -> Reals:
        """Return the values of leaves from sums of g and h, [..., 2]."""
        g, h = sums[..., 0], sums[..., 1]
        value = -self._shrunk(g) / (np.maximum(h, 0.0) + self.reg_lambda)
        return np.where(np.isfinite(value), value, 0.0)

    def _shrunk(self, g: Reals) -> Reals:
        alpha = self.section.reg_alpha
        return np.sign(g) * np.maximum(np.abs(g) - alpha, 0.0) if alpha else g

    def _score(self, g: Reals, h: Reals) -> Reals:
        shrunk = self._shrunk(g)
        bottom = h + self.reg_lambda
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(bottom > 0, shrunk * shrunk / bottom, 0.0)

    def split_level(
        self, tree: OneTree, level: int, sums: Reals, columns: npt.NDArray[np.intp]
    ) -> None:
        """Split the nodes of one level of a tree, in place.

        Args:
            sums: by node of the level, feature and bin, [nodes, F, bins, 2].
            columns: the numbers of the F features.
        """
        first, depth = 2**level - 1, self.section.max_depth
        for i, of_node in enumerate(self._without_noise_of_no_gaps(sums, columns)):
            node = first + i
            if not self._reached(tree.feature, node):
                continue
            whole = of_node[0].sum(0)
            found = self._best(of_node, columns)
            if found is None:
                leaf = leftmost_leaf(node, level, depth)
                self.fill(tree, slice(leaf, leaf + 1), whole[None])
                continue
            column, after, gaps_left, left = found
            edges = self.bins.edges[columns[column]]
            tree.feature[node] = columns[column]
            tree.threshold[node] = edges[after] if after < len(edges) else BEYOND
            if self.bins.have_gaps:
                tree.default_left[node] = gaps_left
            if level == depth - 1:
                leaf = 2 * node + 1 - (2**depth - 1)
                self.fill(tree, slice(leaf, leaf + 2), np.stack([left, whole - left]))

    def _without_noise_of_no_gaps(self, sums: Reals, columns: npt.NDArray[np.intp]) -> Reals:
        """Return the sums with zeros in the bin of gaps of features that are never missing."""
        if self.bins.have_gaps:
            sums = sums.copy()
            sums[:, ~self.bins.may_miss[columns], -1] = 0.0
        return sums

    def fill(self, tree: OneTree, leaves: slice, sums: Reals) -> None:
        """Set leaves from their sums of g and h, [leaves, 2]."""
        tree.value[leaves] = self.rate * self.leaf(sums)
        tree.cover[leaves] = np.maximum(sums[:, 1], 0.0)

    @staticmethod
    def _reached(feature: npt.NDArray[np.float32], node: int) -> bool:
        """Return whether all nodes above are split."""
        while node:
            node = (node - 1) // 2
            if feature[node] == NO_SPLIT:
                return False
        return True

    def _candidates(
        self, sums: Reals, columns: npt.NDArray[np.intp]
    ) -> tuple[Reals, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the sums on the left of each split that a node may have, [F, splits, 2]; after
        which bin each split is; and which of them a feature has.

        With gaps these are, in XGBoost's order: gaps on the right, and last the split between all
        values and the gaps; then gaps on the left, backwards.
        """
        left = sums.cumsum(1)[:, :-1]
        after = np.arange(left.shape[1])
        edges = np.array([len(self.bins.edges[column]) for column in columns])[:, None]
        if not self.bins.have_gaps:
            return left, after, after < edges
        may_miss = self.bins.may_miss[columns][:, None]
        there = after < edges + may_miss, (after < edges)[:, ::-1] & may_miss
        left = np.concatenate([left, (left + sums[:, -1:])[:, ::-1]], 1)
        return left, np.concatenate([after, after[::-1]]), np.concatenate(there, 1)

    def _best(
        self, sums: Reals, columns: npt.NDArray[np.intp]
    ) -> tuple[int, int, bool, Reals] | None:
        """Return the best split of a node, or None: its feature, the bin after which it is, whether
        gaps go left, and the sums on its left.

        Args:
            sums: [F, bins, 2].
        """
        left, after, allowed = self._candidates(sums, columns)
        whole = sums.sum(1)
        right = whole[:, None] - left
        least = self.section.min_child_weight
        allowed &= (left[..., 1] >= least) & (right[..., 1] >= least)
        gain = self._score(left[..., 0], left[..., 1]) + self._score(right[..., 0], right[..., 1])
        gain = gain - self._score(whole[:, 0], whole[:, 1])[:, None]
        gain = np.where(allowed, gain, -np.inf)
        best = int(gain.argmax())
        if not gain.flat[best] > max(LEAST_GAIN, self.section.gamma):
            return None
        column, split = divmod(best, gain.shape[1])
        gaps_left = split >= sums.shape[1] - 1  # never without gaps
        return column, int(after[split]), gaps_left, left[column, split]

"""How much a forest uses each feature, from what the forest itself holds.

As XGBoost has them: `weight`, the number of a feature's splits; `cover`, the mean sum of second
derivatives at them; `gain`, the mean of (`blindsum.platform.training.trees.growing`)

    GL^2 / (HL + lambda) + GR^2 / (HR + lambda) - G^2 / (H + lambda)

A leaf's value is -rate G / (H + lambda) and its cover is H, so that G follows from both. With
`reg_alpha` it does not, and there are no gains.

Under differential privacy G has Gaussian noise of the public deviation s, independent of that in
H. A feature's total gain in a tree is a quadratic form x'Qx in the G of the leaves, x, and Q
depends on the covers alone. Given these, noise adds s^2 tr(Q) to it on average, and its variance is

    4 s^2 x'Q^2 x + 2 s^4 tr(Q^2)      of the x without noise

(Searle, Linear Models, 1971, chapter 2), in which x'Q^2 x is estimated from the noised x by
subtracting s^2 tr(Q^2). Trees have independent noise. If the splits themselves follow from noised
sums (`split: best`), these formulas do not hold: the gains that are chosen are too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.trees.forest import NO_SPLIT

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LeafSums:
    """What the leaves of trees say of the sums that made them.

    Attributes:
        feature: float64 [N, I], of the inner nodes of N trees, as of a forest.
        g, h: float64 [N, L], the sums of derivatives in the leaves.
        reg_lambda: of the job.
    """

    feature: Reals
    g: Reals
    h: Reals
    reg_lambda: float

    @property
    def _below(self) -> tuple[Reals, Reals]:
        """Which leaves lie below the left and the right child of each node, 0 or 1, [I, L]."""
        inner, leaves = self.feature.shape[1], self.g.shape[1]
        left, right = np.zeros((inner, leaves)), np.zeros((inner, leaves))
        for node in range(inner):
            level = (node + 1).bit_length() - 1
            width = leaves >> level
            start = (node + 1 - 2**level) * width
            left[node, start : start + width // 2] = 1.0
            right[node, start + width // 2 : start + width] = 1.0
        return left, right

    @property
    def node_covers(self) -> Reals:
        """The sum of second derivatives at each inner node, [N, I]."""
        left, right = self._below
        return self.h @ (left + right).T

    def _terms(self) -> tuple[Reals, Reals]:
        """Return the rows V [3 I, L] and weights w [N, 3 I] of all nodes' gains: the sum of
        w (V x)^2 over a node's three rows is its gain."""
        left, right = self._below
        rows = np.concatenate([left, right, left + right])
        bottom = self.h @ rows.T + self.reg_lambda
        signs = np.repeat([1.0, 1.0, -1.0], len(left))
        weights = np.divide(signs, bottom, out=np.zeros_like(bottom), where=bottom > 0)
        return rows, weights * np.tile(self.feature != NO_SPLIT, 3)

    @property
    def gains(self) -> Reals:
        """The gain of each split, [N, I], as XGBoost's `loss_changes`; 0 where there is none."""
        rows, weights = self._terms()
        found: Reals = (weights * (self.g @ rows.T) ** 2).reshape(len(self.g), 3, -1).sum(1)
        return found

    def noise_of_gains(self, deviation: float, features: int) -> tuple[Reals, Reals]:
        """Return what noise of that deviation in G adds to each feature's total gain on average,
        and the deviation of the total gain, [features] each."""
        rows, weights = self._terms()
        squared = (rows @ rows.T) ** 2
        of_node = np.tile(self.feature, 3)
        mean, variance = np.zeros(features), np.zeros(features)
        for own, w, g in zip(of_node, weights, self.g, strict=True):
            for feature in np.unique(own[own != NO_SPLIT]).astype(int):
                at = np.flatnonzero(own == feature)
                trace = float(w[at] @ rows[at].sum(1))
                of_square = float(w[at] @ squared[np.ix_(at, at)] @ w[at])
                pulled = (w[at] * (rows[at] @ g)) @ rows[at]
                signal = max(float(pulled @ pulled) - deviation**2 * of_square, 0.0)
                mean[feature] += deviation**2 * trace
                variance[feature] += 4 * deviation**2 * signal + 2 * deviation**4 * of_square
        return mean, np.sqrt(variance)


@dataclass(frozen=True)
class Importance:
    """How much a forest uses one feature. `weight`, `gain` and `cover` are XGBoost's; `total_gain`
    is their sum. With noise, `gain_of_noise` is what noise adds to the total on average, and
    `deviation` that of the total. None: not known."""

    feature: str
    weight: int
    cover: float
    gain: float | None
    total_gain: float | None
    gain_of_noise: float | None
    deviation: float | None

    @property
    def without_noise(self) -> float | None:
        """The total gain without what noise adds to it on average; None if either is not known."""
        if self.total_gain is None or self.gain_of_noise is None:
            return None
        return self.total_gain - self.gain_of_noise

    @property
    def rank(self) -> float:
        """By what features are sorted."""
        known = [self.without_noise, self.total_gain, float(self.weight)]
        return next(one for one in known if one is not None)


def importances(
    sums: LeafSums, names: list[str], deviation: float | None, *, with_gains: bool = True
) -> list[Importance]:
    """Return the importance of the features that a forest uses, the most important first.

    Args:
        deviation: of the noise in G; None if splits were chosen by noised sums, 0 without noise.
        with_gains: whether G is known.
    """
    own = sums.feature[sums.feature != NO_SPLIT].astype(int)
    split = sums.feature != NO_SPLIT
    weight = np.bincount(own, minlength=len(names))
    cover = np.bincount(own, sums.node_covers[split], len(names))
    gain = np.bincount(own, sums.gains[split], len(names))
    noise = None
    if with_gains and deviation is not None:
        noise = sums.noise_of_gains(deviation, len(names))
    found = [
        Importance(
            feature=names[i],
            weight=int(weight[i]),
            cover=float(cover[i] / weight[i]),
            gain=float(gain[i] / weight[i]) if with_gains else None,
            total_gain=float(gain[i]) if with_gains else None,
            gain_of_noise=float(noise[0][i]) if noise else None,
            deviation=float(noise[1][i]) if noise else None,
        )
        for i in np.flatnonzero(weight)
    ]
    return sorted(found, key=lambda one: (-one.rank, one.feature))

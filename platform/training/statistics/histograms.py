"""Where a column's values lie: first within powers of two, then in bins of equal width.

Of the ways to find quantiles under differential privacy this one takes a single exchange for all of
them, and yields the histogram too. A binary search would take a round, and its share of the budget,
for each bit of each quantile.

The bins are counted on two levels, as in Hay, Rastogi, Miklau and Suciu (PVLDB 2010): the count of
a long interval is then the sum of few noisy counts. The levels are reconciled by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.training.statistics.parts import Found, Part, binned
from blindsum.platform.training.statistics.variables import Values, Variables

Reals = npt.NDArray[np.float64]
POWERS = range(-20, 43)
_MAGNITUDES = 2.0 ** np.array(POWERS)
POWER_EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])
"""Edges of the first round's bins; the one around 0 holds what is smaller than all."""

COARSE = 8
"""Fine bins in a coarse one."""
_UNRESOLVED = (-4.0, 4.0)
"""Where values are looked for if the noise hides them all."""
_CERTAIN = 0.005
"""The chance that the noise alone fills any bin of any column's first histogram: a single one far
away would make all later figures of its column useless."""


class Powers(Part):
    """For each column of numbers without public bounds, counts within powers of two."""

    name = "powers"

    def __init__(self, variables: Variables, exact: bool, section: Statistics) -> None:
        super().__init__(variables, exact)
        self._open = [
            i for i, one in enumerate(variables.numbers) if one.name not in section.bounds
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of columns and bins."""
        return len(self._open), len(POWER_EDGES) - 1

    @property
    def norm(self) -> float:
        """A record is in one bin of each column."""
        return float(np.sqrt(max(1, len(self._open))))

    def collect(self, values: Values, found: Found) -> Reals:
        """Count."""
        counts = [binned(values.numbers[:, i], POWER_EDGES) for i in self._open]
        return np.array(counts).reshape(self.shape)

    def ranges(self, found: Found, section: Statistics) -> Reals:
        """Return each column's bounds, float64 [numbers, 2]: the public ones, or those of the bins
        that hold more than the noise would put there."""
        counts = found.sums[self.name].reshape(self.shape)
        least = found.deviations[self.name] * norm.ppf(1 - _CERTAIN / max(1, self.size))
        ranges = np.empty((len(self.variables.numbers), 2))
        for i, one in enumerate(self.variables.numbers):
            if one.name in section.bounds:
                bounds = section.bounds[one.name]
                ranges[i] = bounds.low, bounds.high
                continue
            ranges[i] = self._range(counts[self._open.index(i)], max(least, 0.5), found)
        return ranges

    def _range(self, counts: Reals, least: float, found: Found) -> tuple[float, float]:
        """Return the bounds of the bins that surely hold values, and of those next to them that
        seem to."""
        filled = np.flatnonzero(counts > least)
        around_zero = len(POWERS) - 1
        if not set(filled.tolist()) - ({around_zero} if least > 1 else set()):
            return _UNRESOLVED  # nothing, or only zeros, beside which there may be few others
        first, last = int(filled[0]), int(filled[-1])
        seems = max(2 * found.deviations[self.name], 0.5)
        while first > 0 and counts[first - 1] > seems:
            first -= 1
        while last + 1 < len(counts) and counts[last + 1] > seems:
            last += 1
        return float(POWER_EDGES[first]), float(POWER_EDGES[last + 1])


class Bins(Part):
    """For each column of numbers, counts in bins of equal width between its bounds.

    Args:
        width: 1 for the bins themselves, COARSE for those that are so many times wider.
    """

    def __init__(
        self, variables: Variables, exact: bool, section: Statistics, powers: Powers, width: int
    ) -> None:
        super().__init__(variables, exact)
        self._section, self._powers = section, powers
        bins = section.bins or (1024 if exact else 64)
        self.count, self.name = bins // width, f"bins of {width}"
        self.share = 3.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of columns and bins."""
        return len(self.variables.numbers), self.count

    @property
    def norm(self) -> float:
        """A record is in one bin of each column."""
        return float(np.sqrt(max(1, len(self.variables.numbers))))

    def edges(self, found: Found) -> Reals:
        """Return each column's edges, float64 [numbers, bins + 1]."""
        ranges = self._powers.ranges(found, self._section)
        return np.linspace(ranges[:, 0], ranges[:, 1], self.count + 1, axis=1)

    def collect(self, values: Values, found: Found) -> Reals:
        """Count."""
        edges = self.edges(found)
        counts = [binned(values.numbers[:, i], one) for i, one in enumerate(edges)]
        return np.array(counts).reshape(self.shape)


@dataclass(frozen=True)
class Histogram:
    """A column's counts.

    Attributes:
        edges: float64 [bins + 1], in the column's unit.
        counts: float64 [bins].
        covariance: of the noise on the counts, float64 [bins, bins]; None without privacy.
    """

    edges: Reals
    counts: Reals
    covariance: Reals | None = None

    def quantile(self, share: float, z: float) -> tuple[float, float, float]:
        """Return the value below which that share of the values lies, and an interval in which it
        lies unless the noise exceeds z deviations: the bin that has it, or more of them."""
        bins = len(self.counts)
        # Below each edge, over that share of all.
        excess = np.append(0.0, np.cumsum(self.counts)) - share * self.counts.sum()
        spread = np.zeros(bins + 1)
        if self.covariance is not None and z:
            rows = np.tril(np.ones((bins + 1, bins)), -1) - share
            spread = z * np.sqrt(np.maximum(((rows @ self.covariance) * rows).sum(1), 0.0))
        may_be_above = np.flatnonzero(excess + spread >= 0)
        may_be_below = np.flatnonzero(excess - spread <= 0)
        first = max(int(may_be_above[0]) - 1, 0) if len(may_be_above) else bins - 1
        last = min(int(may_be_below[-1]) + 1, bins) if len(may_be_below) else 1
        value = float(np.interp(0.0, np.maximum.accumulate(excess), self.edges))
        low, high = float(self.edges[first]), float(self.edges[last])
        return value, min(low, value), max(high, value)


def histogram_of(found: Found, fine: Bins, coarse: Bins, column: int) -> Histogram:
    """Return a column's histogram from both levels of bins."""
    counts, edges = counts_of(found, fine, coarse, column), fine.edges(found)[column]
    if found.is_exact:
        return Histogram(edges, counts)
    deviations = found.deviations[fine.name], found.deviations[coarse.name]
    return Histogram(edges, counts, covariance(len(counts), deviations))


def counts_of(found: Found, fine: Bins, coarse: Bins, column: int) -> Reals:
    """Return a column's counts from both levels of bins, [bins]."""
    counts = found.sums[fine.name].reshape(fine.shape)[column]
    if found.is_exact:
        return np.asarray(counts)
    deviations = found.deviations[fine.name], found.deviations[coarse.name]
    return reconciled(counts, found.sums[coarse.name].reshape(coarse.shape)[column], deviations)


def reconciled(fine: Reals, coarse: Reals, deviations: tuple[float, float]) -> Reals:
    """Return the least-squares counts, [bins], from noisy counts on both levels."""
    sums = fine.reshape(-1, COARSE).sum(1)
    of_fine, of_coarse = COARSE * deviations[0] ** 2, deviations[1] ** 2
    better = (sums / of_fine + coarse / of_coarse) / (1 / of_fine + 1 / of_coarse)
    return np.asarray(fine + np.repeat((better - sums) / COARSE, COARSE))


def covariance(bins: int, deviations: tuple[float, float]) -> Reals:
    """Return the covariance of the noise on reconciled counts, [bins, bins].

    Args:
        deviations: of fine and coarse counts.
    """
    of_fine, of_coarse = deviations[0] ** 2, deviations[1] ** 2
    block = np.linalg.inv(np.eye(COARSE) / of_fine + np.ones((COARSE, COARSE)) / of_coarse)
    return np.kron(np.eye(bins // COARSE), block)

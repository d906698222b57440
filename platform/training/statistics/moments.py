"""Means, deviations, correlations and differences between silos, of standardised values.

A column of numbers x is standardised by what the histograms of the round before it found:
u = (x - c) / s, with c the median and s half the distance between the quantiles 0.16 and 0.84, or
between the ends that the noise allows for: an s that is too small would cut most values. A column
of two categories is 1 at the second, less its share p, in units of sqrt(p (1 - p)). Under
differential privacy u is cut to [-CUT, CUT], and a record's whole u to the L2 norm
R = REACH sqrt(columns) + 1. Gaps count as 0.

Correlations are those of the records without gaps in the columns of which at most MOST_GAPS of the
values are missing.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.statistics.histograms import Bins, histogram_of
from blindsum.platform.training.statistics.parts import EXACT_BITS, Found, Part, indicators
from blindsum.platform.training.statistics.variables import MISSING, Values, Variables

Reals = npt.NDArray[np.float64]
CUT, REACH = 4.0, 1.5
MOST_GAPS = 0.2
SIGNS = 4
"""Sums with random signs, per column, that test whether silos differ."""


class Standard:
    """Which columns are standardised.

    Args:
        exact: whether the job has no differential privacy: nothing is cut.

    Attributes:
        names: of the columns: those of numbers, then those of two categories.
        pairs: of the columns of two categories, their number among those of categories, and the
            place of their second category among all.
        reach: R.
    """

    def __init__(self, variables: Variables, fine: Bins, coarse: Bins, exact: bool) -> None:
        self.variables, self.fine, self.coarse, self.exact = variables, fine, coarse, exact
        starts = zip(variables.categories, _starts(variables), strict=True)
        self.pairs = [
            (i, start + 1) for i, (one, start) in enumerate(starts) if len(one.levels) == 2
        ]
        self.names = [one.name for one in variables.numbers]
        self.names += [variables.categories[i].name for i, _ in self.pairs]
        self.reach = REACH * float(np.sqrt(len(self.names))) + 1
        self._last: Standardised | None = None

    def at(self, found: Found) -> Standardised:
        """Return how values are standardised after what was found."""
        if self._last is None or self._last.found is not found:
            self._last = Standardised(self, found)
        return self._last


class Standardised:
    """How values are standardised: c and s of each column, `scales` float64 [columns, 2]."""

    def __init__(self, standard: Standard, found: Found) -> None:
        self._standard, self.found = standard, found
        self.histograms = [
            histogram_of(found, standard.fine, standard.coarse, i)
            for i in range(len(standard.variables.numbers))
        ]
        self._records = max(float(found.sums["records"][0]), 1.0)
        self.scales = self._scales()

    def _scales(self) -> Reals:
        scales = np.empty((len(self._standard.names), 2))
        for i, one in enumerate(self.histograms):
            low, middle, high = (one.quantile(q, 1.0) for q in (0.16, 0.5, 0.84))
            width = high[0] - low[0] if self._standard.exact else high[2] - low[1]
            scales[i] = middle[0], max(width / 2, (one.edges[1] - one.edges[0]) / 4)
        for i, (_, place) in enumerate(self._standard.pairs, start=len(self.histograms)):
            share = float(np.clip(self.found.sums["levels"][place] / self._records, 0.01, 0.99))
            scales[i] = share, math.sqrt(share * (1 - share))
        return scales

    @cached_property
    def complete(self) -> npt.NDArray[np.bool_]:
        """Which columns have few enough gaps to be correlated, bool [columns]."""
        gaps = list(self.found.sums["gaps"] / self._records)
        levels = self.found.sums["levels"] / self._records
        gaps += [1 - levels[place - 1 : place + 1].sum() for _, place in self._standard.pairs]
        return np.array(gaps) <= MOST_GAPS

    @cached_property
    def greatest(self) -> Reals:
        """Bounds of the mean square of each standardised column, from its histogram, without
        privacy: they fix the units of exact sums. float64 [columns]."""
        bounds = np.ones(len(self._standard.names))
        for i, one in enumerate(self.histograms):
            ends = np.abs(one.edges - self.scales[i, 0]) / self.scales[i, 1]
            far = np.maximum(ends[1:], ends[:-1]) ** 2
            bounds[i] = max(1.0, float(one.counts @ far) / max(one.counts.sum(), 1.0))
        return bounds

    def of(self, values: Values) -> Reals:
        """Return standardised values, NaN where missing, float64 [records, columns]."""
        columns = [values.numbers]
        for i, _ in self._standard.pairs:
            code = values.codes[:, i]
            columns.append(np.where(code == MISSING, np.nan, code)[:, None])
        u: Reals = (np.concatenate(columns, axis=1) - self.scales[:, 0]) / self.scales[:, 1]
        if self._standard.exact:
            return u
        u = np.clip(u, -CUT, CUT)
        norms = np.sqrt(np.nansum(u * u, axis=1, keepdims=True))
        u *= np.minimum(1.0, self._standard.reach / np.maximum(norms, 1e-12))
        return u


def _starts(variables: Variables) -> list[int]:
    """Return the place of each column's first category among all."""
    sizes = [len(one.levels) for one in variables.categories]
    return [sum(sizes[:i]) for i in range(len(sizes))]


class OfStandard(Part):
    """A part that sums standardised values."""

    def __init__(self, variables: Variables, standard: Standard) -> None:
        super().__init__(variables, standard.exact)
        self.standard = standard

    def exact_units(self, found: Found, bounds: Reals) -> Reals:
        """Return powers of two of which exact sums take at most EXACT_BITS bits.

        Args:
            bounds: of each sum's mean over the records.
        """
        records = max(float(found.sums["records"][0]), 1.0)
        return np.asarray(2.0 ** np.ceil(np.log2(records * bounds) - EXACT_BITS))


class Sums(OfStandard):
    """For each standardised column, the sum of the values."""

    name, share = "sums", 3.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of columns."""
        return (len(self.standard.names),)

    @property
    def norm(self) -> float:
        """R."""
        return self.standard.reach

    def collect(self, values: Values, found: Found) -> Reals:
        """Sum."""
        return np.asarray(np.nansum(self.standard.at(found).of(values), axis=0))

    def units(self, found: Found) -> Reals:
        """As of mean squares, which bound means."""
        return self.exact_units(found, self.standard.at(found).greatest)


class Squares(Sums):
    """For each standardised column, the sum of the squares."""

    name, share = "squares", 2.0

    @property
    def norm(self) -> float:
        """Of (u_1^2, u_2^2, ...): at most the greatest u times the norm of u."""
        return CUT * self.standard.reach

    def collect(self, values: Values, found: Found) -> Reals:
        """Sum."""
        return np.asarray(np.nansum(self.standard.at(found).of(values) ** 2, axis=0))


class Complete(OfStandard):
    """Of the records without gaps in the correlated columns: their number, their sums, and their
    sums of products, the upper triangle row by row."""

    def __init__(self, variables: Variables, standard: Standard, what: str) -> None:
        super().__init__(variables, standard)
        self._what, self.name = what, f"complete {what}"
        self.share = {"records": 1.0, "sums": 1.0, "products": 3.0}[what]

    @property
    def shape(self) -> tuple[int, ...]:
        """One, of columns, or of pairs of columns."""
        columns = len(self.standard.names)
        pairs = columns * (columns + 1) // 2
        return ({"records": 1, "sums": columns, "products": pairs}[self._what],)

    @property
    def norm(self) -> float:
        """1, R, or R^2."""
        reach = self.standard.reach
        return {"records": 1.0, "sums": reach, "products": reach**2}[self._what]

    def collect(self, values: Values, found: Found) -> Reals:
        """Sum."""
        u, chosen = self.standard.at(found).of(values), self.standard.at(found).complete
        rows = ~np.isnan(u[:, chosen]).any(axis=1)
        if self._what == "records":
            return np.array([float(rows.sum())])
        u = np.where(chosen, np.nan_to_num(u[rows]), 0.0)
        if self._what == "sums":
            return np.asarray(u.sum(0))
        return np.asarray((u.T @ u)[np.triu_indices(u.shape[1])])

    def units(self, found: Found) -> Reals | float:
        """Of exact sums."""
        if self._what == "records":
            return 1.0
        bounds = self.standard.at(found).greatest
        if self._what == "products":
            bounds = np.sqrt(np.outer(bounds, bounds))[np.triu_indices(len(bounds))]
        return self.exact_units(found, bounds)


class Differences(OfStandard):
    """What shows whether silos differ in a column, and names no silo.

    Of each standardised column and of each category, which counts as 1: under differential privacy
    SIGNS sums, in which each silo's own sum has a random sign that nobody else knows; and the sums
    of signed numbers of records. Without privacy the sum of S^2 / n over silos, with S a silo's sum
    and n the number of its values: the variance between silos follows from it.
    """

    name, share = "differences", 2.0

    @property
    def columns(self) -> int:
        """The number of standardised columns and categories."""
        return len(self.standard.names) + self.variables.levels

    @property
    def shape(self) -> tuple[int, ...]:
        """Of signs and columns, the records last; without privacy of columns."""
        return (self.columns,) if self.exact else (SIGNS, self.columns + 1)

    @property
    def norm(self) -> float:
        """Of SIGNS times the standardised values, a category of each column, and 1."""
        others = len(self.variables.categories) + 1
        return float(np.sqrt(SIGNS * (self.standard.reach**2 + others)))

    def collect(self, values: Values, found: Found) -> Reals:
        """Return sums and numbers of values, float64 [2, columns]."""
        u = self.standard.at(found).of(values)
        of_levels = indicators(values, self.variables)
        sums = np.concatenate([np.nansum(u, axis=0), of_levels.sum(0)])
        there = [np.full(len(one.levels), 0.0) for one in self.variables.categories]
        for i, one in enumerate(there):
            one += (values.codes[:, i] != MISSING).sum()
        counts = np.concatenate([(~np.isnan(u)).sum(0), *there])
        whole = np.full_like(sums, len(values))
        return np.stack([sums, counts, whole])

    def sent(self, collected: Reals, random: np.random.Generator) -> Reals:
        """Return S^2 / n, or S with random signs."""
        sums, counts, records = collected
        if self.exact:
            return np.asarray(sums**2 / np.maximum(counts, 1.0))
        signs = random.choice(np.array([-1.0, 1.0]), (SIGNS, 1))
        return np.asarray(signs * np.append(sums, records[:1]))

    def units(self, found: Found) -> Reals:
        """Of exact sums."""
        bounds = np.concatenate([self.standard.at(found).greatest, np.ones(self.variables.levels)])
        return self.exact_units(found, bounds)

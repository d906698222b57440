"""The figures of the consortium that follow from statistics' sums, each with an interval.

An interval covers the noise, and says what the silos' records themselves hold; it does not tell how
such records might come out elsewhere. Without privacy there is no noise: figures are exact, but
quantiles, which are known to a bin of the histogram. Counts have a normal interval. For what is no
linear function of the sums the noise is drawn DRAWS times more, upon the sums, and the interval has
the width of what the figures then spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.histograms import counts_of
from blindsum.platform.training.statistics.interval import DEVIATIONS, LEVEL, Figure
from blindsum.platform.training.statistics.moments import CUT, SIGNS
from blindsum.platform.training.statistics.overlap import Sketch
from blindsum.platform.training.statistics.overlap_figures import Overlap, overlap_figures
from blindsum.platform.training.statistics.parts import Found
from blindsum.platform.training.statistics.survival_figures import (
    SurvivalFigures,
    survival_figures,
)
from blindsum.platform.training.statistics.variables import undescribed_kind
from blindsum.platform.training.vector import Vector

Reals = npt.NDArray[np.float64]
DRAWS = 200
MOST_NOISE = 0.3
"""The greatest deviation of a correlation's noise with which it is shown."""
SURE = 0.01
"""The chance, over all columns, that one is said to differ between silos if none does."""


@dataclass(frozen=True)
class Difference:
    """Whether silos differ in a column: the p-value of the hypothesis that they do not, and whether
    it is small enough among as many columns."""

    p: float
    found: bool


@dataclass(frozen=True)
class NumberFigures:
    """A column of numbers, in its unit; dates are days since `since`.

    Attributes:
        missing: share of the records.
        cut: between which values count as they are; what lies beyond is added to mean and deviation
            by the histogram. None if exact.
        quantiles: by share.
        edges, counts, noise: of the histogram: its bins, their counts, the noise's deviation on
            each.
    """

    name: str
    is_label: bool
    since: str | None
    missing: Figure
    mean: Figure
    deviation: Figure
    cut: tuple[float, float] | None
    quantiles: Mapping[float, Figure]
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    noise: tuple[float, ...]
    differs: Difference | None


@dataclass(frozen=True)
class CategoryFigures:
    """A column of categories, or labels: the share of missing values, the records of each."""

    name: str
    is_label: bool
    missing: Figure
    levels: Mapping[str, Figure]
    differs: Difference | None


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlations of the records without gaps in these columns, with the deviations of
    their noise; rows of [columns]."""

    names: tuple[str, ...]
    records: Figure
    matrix: tuple[tuple[float, ...], ...]
    deviations: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Figures:
    """What the silos of a consortium hold together; None for what the job does not ask for.

    `undescribed` is the kind of the features if these are no columns: of their records only labels
    are counted. `complete` is false if the last round is missing: then there are no means,
    deviations, correlations and differences.
    """

    exact: bool
    records: Figure
    numbers: tuple[NumberFigures, ...]
    categories: tuple[CategoryFigures, ...]
    correlations: Correlations | None
    overlap: Overlap | None = None
    survival: SurvivalFigures | None = None
    undescribed: str | None = None
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return all, as JSON holds it: without NaN."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COUNTING = 2
"""The rounds after which there are figures."""


def figures_of(describing: Describing, table: Vector, rounds: int | None = None) -> Figures:
    """Return the figures of a run that ended, from its model.

    Args:
        rounds: how many it completed, at least COUNTING; default: all.
    """
    return _Reading(describing, describing.found(table, rounds)).figures()


class _Reading:
    def __init__(self, describing: Describing, found: Found) -> None:
        self._of, self._found = describing, found
        self._complete = "sums" in found.sums or not describing.standard.names
        self._z = DEVIATIONS
        self._standard = describing.standard.at(found)
        # The noise is public, so are further draws of it: any seed will do.
        random = np.random.default_rng(0)
        self._draws = [found] if found.is_exact else [self._drawn(random) for _ in range(DRAWS)]
        columns = len(describing.standard.names) + len(describing.variables.categories)
        self._most_p = SURE / max(1, columns)

    def _drawn(self, random: np.random.Generator) -> Found:
        sums = {
            name: values + random.normal(0, self._found.deviations[name], values.shape)
            for name, values in self._found.sums.items()
            if name != Sketch.name  # it is long, and nothing is drawn for it
        }
        return replace(self._found, sums=sums)

    def figures(self) -> Figures:
        variables = self._of.variables
        return Figures(
            exact=self._found.is_exact,
            records=self._count("records", 0),
            numbers=tuple(map(self._number, range(len(variables.numbers)))),
            categories=tuple(map(self._category, range(len(variables.categories)))),
            correlations=self._correlations(),
            overlap=self._overlap(),
            survival=self._survival(),
            undescribed=undescribed_kind(self._of.job.data),
            complete=self._complete,
        )

    # -- figures -----------------------------------------------------------------------------

    def _count(self, part: str, at: int) -> Figure:
        value, spread = self._found.sums[part][at], self._z * self._found.deviations[part]
        return Figure(float(value), float(max(value - spread, 0.0)), float(value + spread))

    def _figure(self, of: Callable[[Found], float]) -> Figure:
        value = float(of(self._found))
        if self._found.is_exact or not math.isfinite(value):
            return Figure(value, value, value)
        drawn = np.array([of(one) for one in self._draws])
        spread = self._z * float(np.nanstd(drawn))
        if np.isnan(drawn).mean() > 1 - LEVEL:
            return Figure(math.nan, math.nan, math.nan)
        return Figure(value, value - spread, value + spread)

    def _share(self, of: Callable[[Found], float]) -> Figure:
        found = self._figure(lambda one: of(one) / max(float(one.sums["records"][0]), 1.0))
        return Figure(
            *(float(np.clip(one, 0.0, 1.0)) for one in (found.value, found.low, found.high))
        )

    def _number(self, at: int) -> NumberFigures:
        column, (center, scale) = self._of.variables.numbers[at], self._standard.scales[at]
        histogram, exact = self._standard.histograms[at], self._found.is_exact
        noise = np.zeros_like(histogram.counts)
        if histogram.covariance is not None:
            noise = np.sqrt(np.diag(histogram.covariance))
        quantiles = {q: histogram.quantile(q, self._z) for q in self._of.section.quantiles}
        mean = deviation = Figure(math.nan, math.nan, math.nan)
        if self._complete:
            mean = self._figure(lambda one: center + scale * self._mean_of(one, at))
            spread = self._figure(lambda one: scale * self._deviation_of(one, at))
            deviation = _unless_hidden(spread)
        return NumberFigures(
            name=column.name,
            is_label=column.is_label,
            since=column.since,
            missing=self._share(lambda one: float(one.sums["gaps"][at])),
            mean=mean,
            deviation=deviation,
            cut=None if exact else (float(center - CUT * scale), float(center + CUT * scale)),
            quantiles={q: Figure(*found) for q, found in quantiles.items()},
            edges=tuple(map(float, histogram.edges)),
            counts=tuple(map(float, histogram.counts)),
            noise=tuple(map(float, noise)),
            differs=self._difference([at]),
        )

    def _beyond(self, one: Found, at: int, power: int) -> float:
        """Return the sum of u^power that was cut off a column's values, by the histogram."""
        if one.is_exact:
            return 0.0
        edges, (center, scale) = self._standard.histograms[at].edges, self._standard.scales[at]
        middles = ((edges[1:] + edges[:-1]) / 2 - center) / scale
        counts = counts_of(one, self._of.fine, self._of.coarse, at)
        return float(counts @ (middles**power - np.clip(middles, -CUT, CUT) ** power))

    def _mean_of(self, one: Found, at: int) -> float:
        count, sums, _ = _of_column(one, at)
        return (sums + self._beyond(one, at, 1)) / count

    def _deviation_of(self, one: Found, at: int) -> float:
        count, _, squares = _of_column(one, at)
        square = (squares + self._beyond(one, at, 2)) / count
        return math.sqrt(max(square - self._mean_of(one, at) ** 2, 0.0))

    def _category(self, at: int) -> CategoryFigures:
        column = self._of.variables.categories[at]
        first = sum(len(one.levels) for one in self._of.variables.categories[:at])
        places = range(first, first + len(column.levels))

        def missing(one: Found) -> float:
            return float(one.sums["records"][0] - one.sums["levels"][list(places)].sum())

        return CategoryFigures(
            name=column.name,
            is_label=column.is_label,
            missing=self._share(missing),
            levels={
                level: self._count("levels", place)
                for level, place in zip(column.levels, places, strict=True)
            },
            differs=self._difference([len(self._of.standard.names) + one for one in places]),
        )

    # -- overlaps and survival ---------------------------------------------------------------

    def _overlap(self) -> Overlap | None:
        if self._of.lookup is None:
            return None
        return overlap_figures(self._of, self._found, self._count("identifiers", 0))

    def _survival(self) -> SurvivalFigures | None:
        events = self._of.survival
        if events is None:
            return None
        return survival_figures(
            events.counts(self._found),
            self._found.deviations[events.name],
            events.ends,
            events.groups,
            np.random.default_rng(0),
            events.section.time,
            f"{events.section.event} = {events.event}",
        )

    # -- correlations ------------------------------------------------------------------------

    def _correlations(self) -> Correlations | None:
        if not self._complete or not self._of.section.correlations or not self._of.standard.names:
            return None
        chosen = np.flatnonzero(self._standard.complete)
        names = tuple(self._of.standard.names[i] for i in chosen)
        matrix = _correlated(self._found, chosen)
        drawn = np.array([_correlated(one, chosen) for one in self._draws])
        deviations = np.zeros_like(matrix) if self._found.is_exact else drawn.std(axis=0)
        # Of what the noise moves further, the interval would not hold: no correlation is beyond 1.
        matrix = np.where(deviations <= MOST_NOISE, matrix, np.nan)
        return Correlations(
            names,
            self._count("complete records", 0),
            tuple(tuple(map(float, row)) for row in matrix),
            tuple(tuple(map(float, row)) for row in deviations),
        )

    # -- differences -------------------------------------------------------------------------

    def _difference(self, columns: list[int]) -> Difference | None:
        """Test whether silos differ in any of these columns, which make up one of the job's.

        Without privacy: the F-test of the variance between silos for numbers, Pearson's chi-squared
        for categories. Under it: the signed sums, of which each has a known variance if all silos'
        records are alike; the least p-value of all signs and columns counts, times their number.
        """
        if not self._complete or not self._of.section.differences:
            return None
        of_test = self._p_exact if self._found.is_exact else self._p_noised
        p = min(1.0, of_test(columns))
        return Difference(p, p < self._most_p)

    def _p_exact(self, columns: list[int]) -> float:
        between, silos = self._found.sums["differences"], len(self._of.job.silos)
        places = len(self._of.standard.names)
        if columns[0] >= places:
            counts = self._found.sums["levels"][[one - places for one in columns]]
            whole, filled = counts.sum(), counts > 0
            squares = between[columns][filled] / counts[filled]
            degrees = (silos - 1) * (int(filled.sum()) - 1)
            chi2 = whole * (squares.sum() - 1)
            return float(stats.chi2.sf(chi2, degrees)) if degrees else 1.0
        (at,) = columns
        count, sums, squares_of = _of_column(self._found, at)
        inside, outside = squares_of - between[at], between[at] - sums**2 / max(count, 1.0)
        left = count - silos
        if inside <= 0 or left <= 0:
            return 1.0
        return float(stats.f.sf(outside / (silos - 1) / (inside / left), silos - 1, left))

    def _p_noised(self, columns: list[int]) -> float:
        found, places = self._found, len(self._of.standard.names)
        signed = found.sums["differences"].reshape(SIGNS, -1)
        noise, least = found.deviations["differences"] ** 2, 1.0
        records = max(float(found.sums["records"][0]), 1.0)
        for at in columns:
            if at < places:
                count, _, _ = _of_column(found, at)
                mean, variance = _mean(found, at), _variance(found, at)
            else:
                share = found.sums["levels"][at - places] / records
                count, mean = records, float(np.clip(share, 0.0, 1.0))
                variance = mean * (1 - mean)
            there = min(count / records, 1.0)  # of the values of each silo, if silos are alike
            for row in signed:
                apart, signed_count = row[at] - mean * there * row[-1], there * row[-1]
                spread = variance * max(count - signed_count**2 / count, 0.0)
                spread += noise * (1 + (mean * there) ** 2)
                least = min(least, 2 * float(stats.norm.sf(abs(apart) / math.sqrt(spread))))
        return least * SIGNS * len(columns)


def _unless_hidden(figure: Figure) -> Figure:
    """Return a figure that cannot be negative, unless its interval reaches below 0."""
    hidden = not figure.is_exact and figure.low < 0
    return Figure(math.nan, math.nan, math.nan) if hidden else figure


def _of_column(found: Found, at: int) -> tuple[float, float, float]:
    """Return the number of a standardised column's values, their sum, and that of their squares."""
    gaps = found.sums["gaps"]
    count = float(found.sums["records"][0]) - (float(gaps[at]) if at < len(gaps) else 0.0)
    return max(count, 1.0), float(found.sums["sums"][at]), float(found.sums["squares"][at])


def _mean(found: Found, at: int) -> float:
    count, sums, _ = _of_column(found, at)
    return sums / count


def _variance(found: Found, at: int) -> float:
    count, sums, squares = _of_column(found, at)
    return max(squares / count - (sums / count) ** 2, 0.0)


def _correlated(found: Found, chosen: npt.NDArray[np.intp]) -> Reals:
    """Return the correlations of chosen columns; NaN where a variance is hidden by the noise."""
    sums, products = found.sums["complete sums"], found.sums["complete products"]
    count, whole = max(float(found.sums["complete records"][0]), 1.0), np.zeros((len(sums),) * 2)
    whole[np.triu_indices(len(sums))] = products
    whole = whole + np.triu(whole, 1).T
    covariances = whole / count - np.outer(sums, sums) / count**2
    covariances = covariances[np.ix_(chosen, chosen)]
    variances = np.diag(covariances)
    spread = np.sqrt(np.where(variances > 0, variances, np.nan))
    matrix = np.clip(covariances / np.outer(spread, spread), -1.0, 1.0)
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix)

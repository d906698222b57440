"""Means and differences over runs, with 95 % intervals: from the held-out records and from seeds.

    one run         its own interval, for the choice of the held-out records
    several seeds   also Student's interval of the mean over seeds. With two runs that is 12.7
                    standard errors wide: two runs say little about a third
    a difference    runs with the same seed are paired, so that what a seed gives both cancels. The
                    ends of the records' intervals are squared and added (Newcombe, Statistics in
                    Medicine 1998, method 10)

Both parts are squared and added. Compared runs are evaluated on the same held-out records, which
err together: a difference is in fact known better than its interval says, so that "not
distinguishable" is no proof of equality, and "distinguishable" is on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from blindsum.platform.evaluation.intervals import CONFIDENCE, Interval, with_interval

Spread = tuple[float, float]
"""How far an interval reaches below and above its value."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` runs, with the ends of its interval; None if nothing is known of it."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def interval(self) -> Interval | None:
        """The interval."""
        if self.low is None or self.high is None:
            return None
        return Interval(self.low, self.high)

    @property
    def within_noise(self) -> bool:
        """Whether a difference may as well be 0."""
        return self.interval is None or self.interval.low <= 0 <= self.interval.high

    def written(self, signed: bool = False) -> str:
        """Return the mean with its interval, in the form of all figures."""
        sign = "+" if signed and self.mean >= 0 else ""
        return sign + with_interval(self.mean, self.interval)


@dataclass(frozen=True)
class Scored:
    """One run's score and seed. `interval` covers the choice of the held-out records; None for runs
    of earlier versions, which did not log it."""

    score: float
    seed: str
    interval: Interval | None = None

    @property
    def written(self) -> str:
        """The score with its interval."""
        return with_interval(self.score, self.interval)


def mean(runs: Sequence[Scored], most: float = math.inf) -> Estimate:
    """Return the mean score of runs that differ only by their seeds.

    Args:
        most: the greatest possible score.
    """
    scores = [run.score for run in runs]
    below, above = _records(runs)
    seeds = student(scores)
    if seeds is None and below is None:
        return Estimate(float(np.mean(scores)), None, None, len(runs))
    center = float(np.mean(scores))
    low = center - math.hypot(seeds or 0.0, below or 0.0)
    high = center + math.hypot(seeds or 0.0, above or 0.0)
    return Estimate(center, low, min(high, most), len(runs))


def difference(ours: Sequence[Scored], theirs: Sequence[Scored]) -> Estimate:
    """Return how much better our runs are than theirs: on common seeds, if there are any."""
    a, b = ({run.seed: run for run in runs} for runs in (ours, theirs))
    common = [seed for seed in a if seed in b]
    if common:
        ours, theirs = [a[seed] for seed in common], [b[seed] for seed in common]
        apart = [x.score - y.score for x, y in zip(ours, theirs, strict=True)]
        center, seeds, count = float(np.mean(apart)), student(apart), len(common)
    else:
        means = [float(np.mean([run.score for run in runs])) for runs in (ours, theirs)]
        reaches = [student([run.score for run in runs]) for runs in (ours, theirs)]
        center, count = means[0] - means[1], min(len(ours), len(theirs))
        seeds = None if None in reaches else math.hypot(*(r or 0.0 for r in reaches))
    (below, above), (their_below, their_above) = _records(ours), _records(theirs)
    known = None not in (below, above, their_below, their_above)
    if seeds is None and not known:
        return Estimate(center, None, None, count)
    low = center - math.hypot(seeds or 0.0, below or 0.0, their_above or 0.0)
    high = center + math.hypot(seeds or 0.0, above or 0.0, their_below or 0.0)
    return Estimate(center, low, high, count)


def median(values: Sequence[float]) -> Estimate:
    """Return the median of values, such as gains on many tasks, with the interval of the sign test:
    between two of the values (Conover, Practical Nonparametric Statistics, 1999). Five values or
    fewer have none."""
    count, ordered = len(values), sorted(values)
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, count, 0.5))
    low, high = (ordered[rank - 1], ordered[-rank]) if rank else (None, None)
    return Estimate(float(np.median(ordered)), low, high, count)


def student(values: Sequence[float]) -> float | None:
    """Return the half-width of Student's interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))


def _records(runs: Sequence[Scored]) -> Spread | tuple[None, None]:
    """Return how far the runs' own intervals reach below and above, on average: the same records
    err together in all of them, so that more runs do not make it less."""
    if any(run.interval is None for run in runs):
        return None, None
    known = [(run.score, run.interval) for run in runs if run.interval]
    below = float(np.mean([max(score - of.low, 0.0) for score, of in known]))
    return below, float(np.mean([max(of.high - score, 0.0) for score, of in known]))

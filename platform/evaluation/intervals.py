"""95 % intervals of held-out figures, and their form in words.

    accuracy    Wilson's score interval (JASA 1927), with the variance of the noise on the counts
                added to the binomial one: the values t with (a - t)^2 <= z^2 (t (1 - t) / n + d^2)
    AUROC,      Wilson's interval of as many records as a share of that value needs to have that
    AUPRC       variance: n = a (1 - a) / v (effective sample size; Franco, Little, Louis and Slud,
                Journal of Survey Statistics and Methodology 2019). v is computed inside the silos
                (`blindsum.platform.evaluation.influence`)
    the others  as AUROC: a conformal efficiency is a share of the records; BEDROC, and an
                enrichment over the greatest that there is, are shares of the positives
    R2          symmetric in log(1 - R2), so that it ends below 1

They cover the choice of the held-out records for one model as it is. Another training would give
another model; `blindsum.pipelines.comparison.compare` measures that over seeds.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_NARROW = 0.1
"""Ends of narrower intervals get a third digit."""

TOPS = {"enrichment_1_percent": 0.01, "enrichment_5_percent": 0.05}
"""The shares of records among which positives are enriched, by the figure."""


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float

    @property
    def deviation(self) -> float:
        """The standard deviation of a normal variable with an interval of that width."""
        return (self.high - self.low) / (2 * DEVIATIONS)

    def __str__(self) -> str:
        digits = 3 if self.high - self.low < _NARROW else 2
        return f"{CONFIDENCE:.0%}: {self.low:.{digits}f} to {self.high:.{digits}f}".replace(
            "%", " %", 1
        )


def with_interval(value: float, interval: Interval | None, more: str = "") -> str:
    """Return "0.781 (95 %: 0.70 to 0.84)", the form that all outputs share.

    Args:
        more: follows the interval within the brackets.
    """
    inside = [part for part in (str(interval) if interval else "", more) if part]
    return f"{value:.3f}" + (f" ({', '.join(inside)})" if inside else "")


def of_share(share: float, records: float, deviation: float = 0.0) -> Interval:
    """Return the interval of a share of that many records.

    Args:
        deviation: standard deviation of the noise on the share.
    """
    squared = DEVIATIONS**2
    fewer = squared / max(records, 1.0)
    half = math.sqrt(
        4 * fewer * share * (1 - share) + fewer**2 + 4 * (1 + fewer) * squared * deviation**2
    )
    low, high = ((2 * share + fewer + sign * half) / (2 * (1 + fewer)) for sign in (-1, 1))
    return Interval(max(low, 0.0), min(high, 1.0))


def of_ranking(mean: float, variance: float, fewest: float, pairs: int = 1) -> Interval:
    """Return the interval of a mean AUROC or AUPRC.

    Args:
        fewest: the number of records of the rarer class, in all pairs. A mean within half a record
            of 0 or 1 in every pair counts as half a record away from it, as in
            `blindsum.platform.evaluation.influence.least_of_auroc`.
        pairs: the number of silo-task pairs that the mean is over.
    """
    edge = min(pairs / (2 * max(fewest, 1.0)), 0.5)
    inner = min(max(mean, edge), 1 - edge)
    if variance <= 0:  # thousands of records: below the unit in which variances are summed
        return Interval(mean, mean)
    return of_share(mean, inner * (1 - inner) / variance)


def of_figure(
    name: str, mean: float, variance: float, positives: float, negatives: float, pairs: int = 1
) -> Interval:
    """Return the interval of a figure of tasks, or of its mean over silo-task pairs.

    Args:
        variance: of an enrichment, that of its product with the share of `TOPS`.
        positives: the number of positive labels in all pairs, as `negatives`.
    """
    if name == "r2":
        return of_r2(mean, variance)
    fewest = {
        "auroc": min(positives, negatives),
        "conformal_efficiency": positives + negatives,
        "calibration_error": positives + negatives,
    }.get(name, positives)  # the others are means over positives
    top = TOPS.get(name, 1.0)
    low, high = of_ranking(mean * top, variance, fewest, pairs)
    if name in TOPS and pairs == 1:  # nothing but positives at the top is the most there can be
        high = min(high, max(top * (positives + negatives) / max(positives, 1), mean * top))
    return Interval(low / top, high / top)


def of_r2(mean: float, variance: float) -> Interval:
    """Return the interval of a mean R2."""
    left = 1 - mean
    if left <= 0 or variance <= 0:
        return Interval(mean, mean)
    factor = math.exp(min(DEVIATIONS * math.sqrt(variance) / left, 50.0))
    return Interval(1 - left * factor, 1 - left / factor)

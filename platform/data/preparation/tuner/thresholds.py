"""The thresholds that TUNER gives an assay: those of experts, or of its own measurements.

dose response   up to three experts' thresholds, and one more half a unit below and above them;
                four or more alone. Without experts: the greatest of TRIALS that leaves a fifth
                of the labels positive and meets the quorum, else the median; and one more half
                a unit below and above it
ADME            experts' thresholds, else the median of exact numbers, and the quartile on the
                side of positives
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TRIALS = (8.0, 7.0, 6.0, 5.0, 4.7, 4.4)
"""Thresholds on the scale of pIC50, from the strictest on."""

LEAST_POSITIVE, APART, MOST_WITH_NEIGHBOURS = 0.2, 0.5, 3
_TWICE = math.log10(2)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """An assay's credible numbers, and -1, 0 or 1 where the true value lies below, at or above
    each. Private to the silo."""

    values: Numbers
    sides: Numbers

    def __repr__(self) -> str:
        return "Measured(private)"

    @property
    def exact(self) -> Numbers:
        """The numbers that are no bounds."""
        found: Numbers = self.values[self.sides == 0]
        return found


def dose_response(
    experts: Sequence[float], measured: Measured, positives: int, negatives: int
) -> list[float]:
    """Return the thresholds of a dose-response assay; none without experts and numbers.

    Args:
        positives, negatives: the quorum that a threshold of TRIALS must meet.
    """
    if len(experts) > MOST_WITH_NEIGHBOURS:
        return sorted(experts)
    middle = list(experts)
    if not middle and len(measured.values):
        middle = [_adaptive(measured, positives, negatives)]
    if not middle:
        return []
    return [min(middle) - APART, *sorted(middle), max(middle) + APART]


def adme(experts: Sequence[float], measured: Measured, direction: str) -> list[float]:
    """Return the thresholds of an ADME assay; none without experts and two exact numbers.

    Args:
        direction: high or low; without one there is no quartile.
    """
    if experts:
        return sorted(experts)
    if len(measured.exact) < 2:
        return []
    found = {float(np.quantile(measured.exact, 0.5))}
    if direction:
        found.add(float(np.quantile(measured.exact, 0.25 if direction == "low" else 0.75)))
    return sorted(found)


def _adaptive(measured: Measured, positives: int, negatives: int) -> float:
    values, sides = measured.values, measured.sides
    for threshold in TRIALS:
        above = int(((values >= threshold) & (sides >= 0)).sum())
        below = ((values < threshold) & (sides <= 0)) | ((values == threshold) & (sides < 0))
        labels = above + int(below.sum())
        enough = above >= positives and labels - above >= negatives
        if enough and labels and above / labels >= LEAST_POSITIVE:
            return threshold
    # A bound counts as half or twice the concentration.
    return float(np.quantile(values + _TWICE * sides, 0.5))

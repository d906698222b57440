"""The exposure of canaries: how much likelier a model finds them than texts of the same kind.

Carlini, Liu, Erlingsson, Kos and Song, "The secret sharer", USENIX Security 2019, section 4: the
exposure of a canary is log2 of the number of texts that it could have been, minus log2 of its rank
among them by the model's loss. For a model that never saw the canaries the median is 1 bit.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from blindsum.pipelines.audit.evidence import CONFIDENCE, Figure

Reals = npt.NDArray[np.float64]


def exposures(canaries: Reals, others: Reals) -> Reals:
    """Return the exposure of each canary in bits, float64 [C].

    Args:
        canaries: a model's loss on each canary, [C].
        others: its loss on texts of the same kind which it never saw, [M].
    """
    ranks = 1 + np.searchsorted(np.sort(others), canaries)
    found: Reals = np.log2(len(others) + 1) - np.log2(ranks)
    return found


def median_exposure(found: Reals) -> Figure:
    """Return the median of exposures, with an interval from order statistics; the floor is 1 bit.

    With fewer than six exposures even the least and the greatest are no such interval: it then
    reaches from 0 bits up to the greatest.
    """
    ordered = np.sort(found)
    low, high = (int(q) for q in stats.binom.interval(CONFIDENCE, len(ordered), 0.5))
    least = float(ordered[low - 1]) if low else 0.0
    most = float(ordered[min(high, len(ordered) - 1)])
    return Figure(float(np.median(ordered)), least, most, floor=1.0, unit="bits")


def most_allowed(epsilon: float, delta: float) -> float:
    """Return the greatest median exposure, in bits, that (epsilon, delta) allows for one record.

    A median of x bits says that a planted canary ranks among the first 2^-x of all with chance one
    half, and one that was not planted with chance 2^-x: 1/2 <= exp(epsilon) 2^-x + delta.
    """
    return (epsilon - math.log(0.5 - delta)) / math.log(2)

"""How many of the positives a ranking has at its top, as in virtual screening. Private to the silo.

    enrichment at 1 % or 5 %    share of the positives among the records with the highest scores,
                                divided by the share of all records that these are. 1 is guessing
    BEDROC                      exponentially weighted ranks of the positives, alpha 20, between 0
                                and 1 (Truchon and Bayly, J. Chem. Inf. Model. 2007, equation 36)

Equal scores count as in a random order of theirs. Influences are those of the positives, with the
line below the top taken as fixed: variances are rather too large than too small.
"""

from __future__ import annotations

import math

import numpy as np

from blindsum.platform.evaluation.influence import Reals, within_classes

ALPHA = 20.0
"""Four fifths of the weight lie on the first 8 % of the records."""


def enrichment(true: Reals, said: Reals, top: float) -> tuple[float, Reals]:
    """Return the enrichment factor among the share `top` of the records, and each record's
    influence on `top` times that factor, float64 [records].

    Args:
        true: 0 or 1, [records]; at least two records of each class.
        said: finite scores, [records].
        top: of so many records, rounded up.
    """
    chosen = math.ceil(top * len(true) - 1e-9)
    line = np.partition(said, -chosen)[-chosen]
    above, at = said > line, said == line
    share = (chosen - above.sum()) / at.sum()
    inside = above + at * share
    positive = true == 1
    factor = float(inside[positive].mean()) * len(true) / chosen
    found = np.where(positive, inside * (top * len(true) / chosen), 0.0)
    return factor, _of_positives(found, positive)


def bedroc(true: Reals, said: Reals) -> tuple[float, Reals]:
    """Return the BEDROC, and each record's influence on it, float64 [records]. Arguments as
    `enrichment`."""
    from scipy.stats import rankdata  # slow to import: as in `influence`

    positive, records = true == 1, len(true)
    weights = np.exp(-ALPHA * rankdata(-said) / records)
    share = float(positive.mean())
    of_chance = -math.expm1(-ALPHA) / math.expm1(ALPHA / records) / records
    scale = share * math.sinh(ALPHA / 2)
    scale /= math.cosh(ALPHA / 2) - math.cosh(ALPHA / 2 - ALPHA * share)
    scale /= of_chance
    least = -1 / math.expm1(ALPHA * (1 - share))
    value = float(weights[positive].mean()) * scale + least
    return min(max(value, 0.0), 1.0), _of_positives(
        np.where(positive, weights * scale, 0.0), positive
    )


def _of_positives(found: Reals, positive: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Reals:
    return within_classes(found, positive, int(positive.sum()), int((~positive).sum()))

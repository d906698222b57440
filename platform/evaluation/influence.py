"""How far each held-out record moves a figure: the variance of a figure is the sum of the squares.

    AUROC    structural components (DeLong, DeLong and Clarke-Pearson, Biometrics 1988), by ranks
             in O(n log n) (Sun and Xu, IEEE Signal Processing Letters 2014)
    AUPRC    derivative of the average precision by the weight of a record (delta method)
    R2       jackknife: the figure without the record
    ECE      the distance in the record's bin, with the sign that the bin's has (delta method)

A silo's tasks are measured on the same records, so that their figures move together. The influences
of a record on all tasks are therefore added before they are squared: the sum of the squares is the
variance of the silo's sum over tasks, with every covariance in it.

Private to the silo. Every function returns float64 [records], scaled so that the squares add up to
an unbiased variance. The number of positives counts as given: influences on AUROC and AUPRC are
centred within each class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

WORST_R2 = -1.0
"""R2 is cut there, so that one task with little spread does not outweigh all others."""


def on_auroc(true: Reals, said: Reals) -> Reals:
    """Return each record's influence on the AUROC."""
    from scipy.stats import rankdata  # 0.6 s to import, which silos with classes need not wait for

    positive = true == 1
    m, n = int(positive.sum()), int((~positive).sum())
    ranks, found = rankdata(said), np.empty(len(true))
    found[positive] = (ranks[positive] - rankdata(said[positive])) / n
    found[~positive] = 1 - (ranks[~positive] - rankdata(said[~positive])) / m
    return within_classes(found, positive, m, n)


def on_auprc(true: Reals, said: Reals) -> Reals:
    """Return each record's influence on the average precision."""
    positive = true == 1
    m, n = int(positive.sum()), int((~positive).sum())
    _, at = np.unique(-said, return_inverse=True)  # the record's threshold, the highest first
    here = np.bincount(at, positive).astype(np.float64)
    hits, misses = here.cumsum(), np.bincount(at, ~positive).cumsum()
    precision, squared = hits / (hits + misses), (hits + misses) ** 2
    # A record counts at its own threshold and at all lower ones.
    raises, lowers = ((here * other / squared)[::-1].cumsum()[::-1] for other in (misses, hits))
    found = np.where(positive, precision[at] + raises[at], -n / m * lowers[at])
    return within_classes(found, positive, m, n)


def on_r2(true: Reals, said: Reals) -> Reals:
    """Return each record's influence on R2, which is cut at WORST_R2 without the record too."""
    count, errors = len(true), (true - said) ** 2
    spread = (true - true.mean()) ** 2
    rest = spread.sum() - spread * count / (count - 1)
    # Without the only record that differs from the others, nothing is left to explain.
    share = np.divide(
        errors.sum() - errors, rest, out=np.full(count, np.inf), where=rest > 1e-12 * spread.sum()
    )
    without = np.maximum(1 - share, WORST_R2)
    influence: Reals = (without.mean() - without) * ((count - 1) / count) ** 0.5
    return influence


def on_calibration_error(true: Reals, probability: Reals, which: npt.NDArray[np.int64]) -> Reals:
    """Return each record's influence on the expected calibration error.

    Args:
        which: the record's bin, [records].
    """
    gaps, counts = probability - true, np.bincount(which)
    of_bins = np.bincount(which, gaps)
    own = np.sign(of_bins)[which] * (gaps - (of_bins / np.maximum(counts, 1))[which])
    found: Reals = own / (len(true) * max(len(true) - 1, 1)) ** 0.5
    return found


def least_of_auroc(auroc: float, positives: int, negatives: int) -> float:
    """Return the least variance that an AUROC is given.

    Classes that a few records separate without an error have a variance of 0 by DeLong, which is no
    certainty. Within half a record of 0 or 1, the variance is that of an AUROC half a record away
    (Newcombe, Statistics in Medicine 2006, part 2, method 5); elsewhere there is no least one.
    """
    edge = 1 / (2 * min(positives, negatives))
    if edge <= auroc <= 1 - edge:
        return 0.0
    at = min(max(auroc, edge), 1 - edge)
    more = (positives + negatives) / 2 - 1
    return (
        at * (1 - at) * (1 + more * ((1 - at) / (2 - at) + at / (1 + at))) / (positives * negatives)
    )


def least_of_auprc(auprc: float, positives: int) -> float:
    """Return the least variance that an AUPRC is given: as `least_of_auroc`, that of a share of the
    positives."""
    edge = 1 / (2 * positives)
    return edge * (1 - edge) / positives if auprc > 1 - edge else 0.0


def within_classes(found: Reals, positive: npt.NDArray[np.bool_], m: int, n: int) -> Reals:
    """Centre within each class and divide, so that the squares add up to the variance of a mean
    over the positives plus that of a mean over the negatives."""
    found[positive] = (found[positive] - found[positive].mean()) / (m * (m - 1)) ** 0.5
    found[~positive] = (found[~positive] - found[~positive].mean()) / (n * (n - 1)) ** 0.5
    return found

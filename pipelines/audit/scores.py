"""Scores of how close reconstructions come to private records, which stay in the silo.

    exact             every feature within a thousandth of the range (2 CLIP; 1 for bits)
    identifiability   the nearest of the silo's records is the true one
    PSNR              10 log10(range^2 / mean squared error), in dB
    Tanimoto          similarity of bits, for fingerprints

The share of correct bits is not used: nearly all bits of a fingerprint are zero, so that the mean
of a class scores 0.96.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Records = npt.NDArray[np.float64]


def paired(recovered: Records, true: Records, guess: Records) -> Records:
    """Return the recovered records in the order of the true ones, by the best overall assignment.

    True records without a recovered one get the guess.
    """
    distances = ((recovered[:, None] - true[None]) ** 2).mean(-1)
    rows, columns = linear_sum_assignment(np.nan_to_num(distances, nan=1e30, posinf=1e30))
    ordered = guess.copy()
    ordered[columns] = recovered[rows]
    return ordered


def exact(recovered: Records, true: Records, span: float) -> int:
    """Count the true records recovered with every feature within a thousandth of the span."""
    return int((np.abs(recovered - true).max(1) <= 1e-3 * span).sum())


def identified(recovered: Records, true: Records, pool: Records) -> int:
    """Count the recovered records whose nearest record in the pool is the true one (or ties)."""
    distances = ((recovered[:, None] - pool[None]) ** 2).sum(-1)
    own = ((recovered - true) ** 2).sum(-1)
    return int((own <= distances.min(1) * (1 + 1e-9) + 1e-12).sum())


def psnr(recovered: Records, true: Records, span: float) -> float:
    """Return the median peak signal-to-noise ratio over the records, dB, at most 120."""
    errors = np.maximum(((recovered - true) ** 2).mean(1), span**2 * 1e-12)
    return float(np.median(10 * np.log10(span**2 / errors)))


def tanimoto(recovered: Records, true: Records) -> float:
    """Return the mean Tanimoto similarity of the bits, which are features above one half."""
    a, b = recovered > 0.5, true > 0.5
    either = np.maximum((a | b).sum(1), 1)
    return float(((a & b).sum(1) / either).mean())


def is_binary(records: npt.NDArray[np.floating]) -> bool:
    """Return whether all features are bits."""
    return bool(np.isin(records, (0.0, 1.0)).all())

"""Noise that the silos make together: each adds a share, the total holds what one server would.

Legend: n silos, t of them may collude, S the deviation of the central mechanism's noise, u one
integer unit, s the deviation of a silo's share in units. Every silo sends the integers

    y = round((x + N(0, S^2 / (n - t))) / u)        round to the nearest integer

of its clipped sum x, each coordinate cut to [-R, R] first. The honest silos' noise alone has
variance S^2 or more, so whoever has the total and the keys and noise of t silos sees at most the
Gaussian mechanism of deviation S on the pooled records: DP-SGD (Abadi et al., CCS 2016) with
sigma = S / C, subsampled, composed and accounted as such. Rounding costs no privacy:

1. Cutting is 1-Lipschitz: a record still moves x by at most C (its clip norm) in L2.
2. A rounded share has probability g(k - x/u) at the integer k, where g is the density of
   N(0, s^2) plus a uniform on [-1/2, 1/2].
3. If the sum of h honest integers had the probability (g * ... * g)(K - X/u), X the honest sum, it
   would be the rounding of X/u + N(0, h s^2) + h - 1 uniforms: the Gaussian mechanism, and then
   steps that do not look at the records (post-processing).
4. It differs from that by what Poisson's summation formula says: in the sum's characteristic
   function the products of unequal shifts by whole frequencies, each at most
   exp(-pi^2 s^2) since a^2 + b^2 >= 1/2 where a - b is a whole number other than nought. So every
   probability differs by at most 2.1 h exp(-pi^2 s^2); with s >= LEAST_UNITS = 4 that is
   below 10^-66, and all coordinates and rounds of a run together stay below 10^-40 in total
   variation. One honest silo alone is exact. All this is of exact normals; `random_source.normals`
   says where those drawn end.

Integer shares (Skellam: Agarwal, Kairouz and Liu, NeurIPS 2021) need a larger S for the same
proven epsilon: their Renyi bound under Poisson subsampling holds with a factor 3 on the sampled
terms, and rounding before noise moves the sensitivity. docs/privacy.md has the comparison.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import PrivacyError
from blindsum.platform.privacy.randomness import normals

LEAST_UNITS = 4.0
"""Least deviation of a share in integer units: step 4 above."""

REACH = 10.0
"""Deviations of a share that the range leaves room for; `normals` ends before."""


def share_deviation(total_deviation: float, silos: int, colluders: int) -> float:
    """Deviation of one silo's share: S / sqrt(n - t)."""
    return total_deviation / math.sqrt(silos - colluders)


def shared_range(cut: float, share: float) -> float:
    """Greatest magnitude of a value that a silo sends: a cut sum and its share of the noise."""
    return cut + REACH * share


def require_fine(share: float, bound: float, limit: int) -> None:
    """Raises PrivacyError if a unit, bound / limit, is too coarse for the share."""
    units = share * limit / bound
    if units < LEAST_UNITS:
        raise PrivacyError(
            f"a silo's share of the noise is {units:.2g} integer units, and needs {LEAST_UNITS:g} "
            "for the accounting to hold",
            "Raise encryption.bits, or lower training.expected_batch_size.",
        )


def noised_integers(
    sums: npt.NDArray[np.floating],
    cut: float,
    share: float,
    unit: float,
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """What one silo sends, int64, of that range of its clipped sum.

    Args:
        cut: R, the greatest magnitude of a coordinate.
        share: deviation of this silo's noise, in the sums' units.
        unit: u, of one integer.
        random: a cryptographic generator. Never called twice for the same sum: two draws of
            the noise would show what it hides.
    """
    noised = normals(sums.size, random)
    noised *= share
    noised += np.clip(sums, -cut, cut)
    noised /= unit
    np.rint(noised, out=noised)
    return noised.astype(np.int64)

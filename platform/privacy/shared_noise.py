"""Shared noise: each silo adds a share, and the total has the noise that one server would add.

Legend: n silos, t of which may collude; S the standard deviation of the central mechanism's noise;
u one integer unit; s the standard deviation of a silo's share, in units. Each silo first cuts
every coordinate of its clipped sum x to [-R, R], and then sends the integers

    y = round((x + N(0, S^2 / (n - t))) / u)        round to the nearest integer

The honest silos' noise alone has variance S^2 or more. An adversary who knows the total, and the
keys and noise of t silos, therefore learns at most the output of the Gaussian mechanism with
standard deviation S on the pooled records. That is DP-SGD (Abadi et al., CCS 2016) with
sigma = S / C, and it is subsampled, composed and accounted as such. Rounding costs no privacy:

1. Cutting is 1-Lipschitz: a record still moves x by at most C, the clip norm, in L2.
2. A rounded share has probability g(k - x/u) at the integer k, where g is the density of
   N(0, s^2) plus a uniform on [-1/2, 1/2].
3. Let X be the honest sum. If the sum of h honest integers had the probability
   (g * ... * g)(K - X/u) at K, it would be the rounding of X/u + N(0, h s^2) + h - 1 uniforms:
   the Gaussian mechanism followed by steps that do not look at the records (post-processing).
4. Poisson's summation formula bounds the difference from that: it consists of the products, in
   the sum's characteristic function, of unequal shifts by whole frequencies. Each product is at
   most exp(-pi^2 s^2), since a^2 + b^2 >= 1/2 where a - b is a non-zero integer. So every
   probability differs by at most 2.1 h exp(-pi^2 s^2). With s >= LEAST_UNITS = 4 that is below
   10^-66, and over all coordinates and rounds of a run the total variation stays below 10^-40.
   With one honest silo the mechanism is exact. This argument assumes exact normals;
   `blindsum.platform.privacy.randomness.normals` documents where the drawn normals end.

Integer shares (Skellam: Agarwal, Kairouz and Liu, NeurIPS 2021) need a larger S for the same
proven epsilon: their Renyi bound under Poisson subsampling holds with a factor 3 on the sampled
terms, and rounding before adding noise changes the sensitivity. docs/privacy.md has the comparison.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import PrivacyError
from blindsum.platform.privacy.randomness import normals

LEAST_UNITS = 4.0
"""Smallest standard deviation of a share, in integer units: step 4 above."""

REACH = 10.0
"""Number of a share's standard deviations that the range allows for. `normals` never draws
beyond it."""


def share_deviation(total_deviation: float, silos: int, colluders: int) -> float:
    """Return the standard deviation of one silo's share, S / sqrt(n - t)."""
    return total_deviation / math.sqrt(silos - colluders)


def shared_range(cut: float, share: float) -> float:
    """Return the greatest magnitude of a value that a silo sends: a cut sum plus a noise share."""
    return cut + REACH * share


def require_fine(share: float, bound: float, limit: int) -> None:
    """Raise PrivacyError if one integer unit, bound / limit, is too coarse for the share."""
    units = share * limit / bound
    if units < LEAST_UNITS:
        raise PrivacyError(
            f"a silo's noise share has a standard deviation of {units:.2g} integer units, but the "
            f"accounting needs at least {LEAST_UNITS:g}",
            "Raise encryption.bits, or lower training.expected_batch_size.",
        )


def noised_integers(
    sums: npt.NDArray[np.floating],
    cut: float,
    share: float,
    unit: float,
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Return the noised integers, int64, that one silo sends for (a part of) its clipped sum.

    Args:
        cut: R, the greatest magnitude of a coordinate.
        share: standard deviation of this silo's noise, in the units of `sums`.
        unit: u, the size of one integer unit.
        random: a cryptographic generator. This must never be called twice for the same sum: two
            draws of the noise would reveal what the noise hides.
    """
    noised = normals(sums.size, random)
    noised *= share
    noised += np.clip(sums, -cut, cut)
    noised /= unit
    np.rint(noised, out=noised)
    return noised.astype(np.int64)

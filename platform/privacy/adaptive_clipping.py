"""A clip norm that follows a quantile of the gradients' norms, from a noised, encrypted count.

Andrew, Thakkar, McMahan and Ramaswamy, "Differentially private learning with adaptive clipping",
NeurIPS 2021, for records instead of users. Legend: C the clip norm, m the expected number of
records in all silos' samples of a round, b = 1 for a record whose gradient's norm is at most C,
gamma the wanted share of those.

In every step the silos count the sum of b - 1/2, which a record moves by 1/2, and add noise of
deviation s to it. The noised total over m, plus 1/2, estimates the share, and the next round's

    C = C exp(-RATE (share - gamma))                                        algorithm 1

Count and clipped sum are one Gaussian mechanism on one sample. It has the noise multiplier
sigma that the accountant knows if the sum has z with 1 / sigma^2 = 1 / z^2 + 1 / (2 s)^2
(theorem 1). Noise is in proportion to C, so whatever C is chosen from what came out before is
covered by composition; and silos that were told different C's find their masks do not cancel.
"""

from __future__ import annotations

import math

from blindsum.platform.job.schema import Job

RATE = 0.2
"""Geometric step of the clip norm: the paper's."""

MOST = 2.0**10
"""How far the clip norm may move from the job's, as a factor, either way."""


def count_deviation(job: Job, sigma: float) -> float:
    """s, of all silos' noise on the count of one step: m / 20, as the paper takes, and at least
    sigma, which leaves the update z of at most 1.16 sigma."""
    return max(job.training.expected_batch_size * len(job.silos) / 20, sigma)


def next_clipping(clipping: float, share: float, quantile: float) -> float:
    """The next round's clip norm, in units of the job's.

    Args:
        share: of records that were not clipped, estimated; may leave 0 to 1.
    """
    following = clipping * math.exp(-RATE * (min(max(share, 0.0), 1.0) - quantile))
    return min(max(following, 1 / MOST), MOST)

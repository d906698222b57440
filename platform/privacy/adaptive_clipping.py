"""Adaptive clipping: the clip norm follows a quantile of the gradient norms, from a noised count.

Andrew, Thakkar, McMahan and Ramaswamy, "Differentially private learning with adaptive clipping",
NeurIPS 2021, for records instead of users. Legend: C the clip norm, m the expected number of
records in all silos' samples of a round, b = 1 for a record whose gradient norm is at most C,
gamma the target share of such records.

In every step the silos sum b - 1/2, which one record changes by 1/2, and add noise of standard
deviation s. The sum is encrypted like an update. The noised total divided by m, plus 1/2,
estimates the share, and the next round uses

    C = C exp(-RATE (share - gamma))                                        algorithm 1

Count and clipped sum together are one Gaussian mechanism on one sample. Its noise multiplier is
the accountant's sigma if the sum's noise multiplier is z with 1 / sigma^2 = 1 / z^2 + 1 / (2 s)^2
(theorem 1). The noise is proportional to C, so composition covers any C chosen from earlier
releases. If silos receive different values of C, their masks do not cancel.
"""

from __future__ import annotations

import math

from blindsum.platform.job.schema import Job

RATE = 0.2
"""The paper's geometric step of the clip norm."""

MOST = 2.0**10
"""Greatest factor by which the clip norm may move from the job's, up or down."""


def count_deviation(job: Job, sigma: float) -> float:
    """Return s, the standard deviation of all silos' noise on the count of one step.

    It is m / 20, the paper's choice, but at least sigma, so that the update's z is at most
    1.16 sigma.
    """
    return max(job.training.expected_batch_size * len(job.silos) / 20, sigma)


def next_clipping(clipping: float, share: float, quantile: float) -> float:
    """Return the next round's clip norm, in units of the job's.

    Args:
        clipping: this round's clip norm, in units of the job's.
        share: estimated share of records that were not clipped; noise may move it outside [0, 1].
        quantile: gamma, the target share.
    """
    following = clipping * math.exp(-RATE * (min(max(share, 0.0), 1.0) - quantile))
    return min(max(following, 1 / MOST), MOST)

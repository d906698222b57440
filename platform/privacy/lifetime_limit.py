"""The lifetime limit on what a dataset may spend over all jobs: a Renyi privacy filter.

A job's plan is fixed before it starts, so privacy loss distributions account for it tightly. But
the choice of later jobs and their plans may depend on what earlier jobs released. In that case the
budget must be fixed in advance and every spend checked against it (Rogers, Roth, Ullman and Vadhan,
NeurIPS 2016). For Renyi divergences at a fixed order a, that check is a simple sum (Feldman and
Zrnic, NeurIPS 2021; Lecuyer, arXiv:2103.01379): as long as the sum of the divergences is at most

    epsilon - log(1 / delta') / (a - 1)

the privacy loss exceeds epsilon with probability at most delta' (Mironov, CSF 2017, proposition 3).
Here the bound needs to hold at one order in ORDERS, which is known only at the end. A union bound
over the orders gives delta' = delta / |ORDERS|.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.privacy.plan import PrivacyPlan

# At integer orders the divergence is a finite sum.
ORDERS = np.array([2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256], np.float64)
Divergences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """A silo's lifetime budget for each of its datasets."""

    epsilon: float
    delta: float

    def holds(self, spent: Divergences) -> bool:
        """Return whether that spend, float64 [orders], is within the limit."""
        return bool((spent <= self.epsilon - _tail(self.delta)).any())

    def epsilon_of(self, spent: Divergences) -> float:
        """Return the smallest lifetime epsilon, at this delta, that would cover that spend."""
        return float((spent + _tail(self.delta)).min()) if spent.any() else 0.0

    def rounds_left(self, spent: Divergences, plan: PrivacyPlan) -> int:
        """Return how many rounds of that plan still fit within the limit."""
        one, room = round_divergences(plan), self.epsilon - _tail(self.delta) - spent
        return max(0, int(np.floor(np.clip((room / one).max() * (1 + 1e-12), -1, 1e9))))


def nothing() -> Divergences:
    """Return the divergences of a dataset that has spent nothing, float64 [orders]."""
    return np.zeros(len(ORDERS))


@functools.lru_cache(maxsize=256)
def _round(rate: float, sigma: float, steps: int) -> Divergences:
    # Importing opacus takes seconds, and few silos have a limit.
    from opacus.accountants.analysis.rdp import compute_rdp

    found = compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=ORDERS.tolist())
    return np.asarray(found, np.float64)


def round_divergences(plan: PrivacyPlan) -> Divergences:
    """Return the Renyi divergences of one round, float64 [orders]: those of the Poisson-subsampled
    Gaussian (Mironov, Talwar and Zhang, arXiv:1908.10530)."""
    return _round(plan.sampling_rate, plan.noise_multiplier, plan.steps_per_round)


def _tail(delta: float) -> Divergences:
    tail: Divergences = np.log(len(ORDERS) / delta) / (ORDERS - 1)
    return tail

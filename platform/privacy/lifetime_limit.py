"""What a dataset may spend over all jobs, however they are chosen: a Renyi privacy filter.

A job's plan is fixed before it starts, so privacy loss distributions account for it tightly. Which
jobs follow, and with what plans, may depend on what earlier ones released; then the budgets have to
be fixed and the spend compared with them as it goes (Rogers, Roth, Ullman and Vadhan, NeurIPS 2016).
For Renyi divergences at a fixed order a that is simple addition (Feldman and Zrnic, NeurIPS 2021;
Lecuyer, arXiv:2103.01379): as long as the sum of the divergences stays at most

    epsilon - log(1 / delta') / (a - 1)

the privacy loss passes epsilon with probability at most delta' (Mironov, CSF 2017, proposition 3).
Here any order of ORDERS may hold, and which one is seen at the end only: delta' = delta / |ORDERS|
by a union bound.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.privacy.plan import PrivacyPlan

# Whole numbers: there the divergence is a finite sum.
ORDERS = np.array([2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256], np.float64)
Divergences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """A silo's lifetime budget for each of its datasets."""

    epsilon: float
    delta: float

    def holds(self, spent: Divergences) -> bool:
        """Whether that spend, float64 [orders], is within the limit."""
        return bool((spent <= self.epsilon - _tail(self.delta)).any())

    def epsilon_of(self, spent: Divergences) -> float:
        """The least lifetime epsilon, at this delta, that would cover that spend."""
        return float((spent + _tail(self.delta)).min()) if spent.any() else 0.0

    def rounds_left(self, spent: Divergences, plan: PrivacyPlan) -> int:
        """How many rounds of that plan still fit."""
        one, room = round_divergences(plan), self.epsilon - _tail(self.delta) - spent
        return max(0, int(np.floor(np.clip((room / one).max() * (1 + 1e-12), -1, 1e9))))


def nothing() -> Divergences:
    """No spend yet."""
    return np.zeros(len(ORDERS))


@functools.lru_cache(maxsize=256)
def _round(rate: float, sigma: float, steps: int) -> Divergences:
    from opacus.accountants.analysis.rdp import compute_rdp  # seconds, and few silos have a limit

    found = compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=ORDERS.tolist())
    return np.asarray(found, np.float64)


def round_divergences(plan: PrivacyPlan) -> Divergences:
    """Renyi divergences of one round, float64 [orders], of the Poisson-subsampled Gaussian
    (Mironov, Talwar and Zhang, arXiv:1908.10530)."""
    return _round(plan.sampling_rate, plan.noise_multiplier, plan.steps_per_round)


def _tail(delta: float) -> Divergences:
    tail: Divergences = np.log(len(ORDERS) / delta) / (ORDERS - 1)
    return tail

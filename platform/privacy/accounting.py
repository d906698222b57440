"""Epsilon of Poisson-subsampled Gaussian steps, and the noise that a budget needs.

Privacy loss distributions (Koskela et al., AISTATS 2020; Doroshenko et al., PoPETs 2022) from
dp-accounting, discretised pessimistically: every epsilon is an upper bound.
"""

from __future__ import annotations

import functools
import math
from importlib.metadata import version

from blindsum.platform.errors import PrivacyError
from blindsum.platform.privacy.plan_cache import cached

ACCOUNTANT = f"PLD, dp-accounting {version('dp-accounting')}"
DISCRETISATION = 1e-3
MIN_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER = 0.2, 200.0
MOST_ABOVE = 1.25
"""A kept multiplier whose estimated epsilon is this many times its budget is computed again."""


def calibrate(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the least noise multiplier, to 0.01 %, with which the run meets (epsilon, delta).

    Multipliers below MIN_NOISE_MULTIPLIER bring no benefit and are not searched. The result is kept
    (`blindsum.platform.privacy.plan_cache`).

    Raises:
        PrivacyError: even MAX_NOISE_MULTIPLIER spends more.
    """
    return calibrated(epsilon, delta, rate, steps)[0]


def calibrated(epsilon: float, delta: float, rate: float, steps: int) -> tuple[float, float]:
    """Return the noise multiplier and the epsilon that it spends."""

    def compute() -> list[float]:
        sigma = _search(epsilon, delta, rate, steps)
        return [sigma, spent_epsilon(sigma, rate, steps, delta)]

    def holds(kept: list[float]) -> bool:
        sigma, spent = kept
        least = 0.5 * MIN_NOISE_MULTIPLIER  # where the search ends
        plausible = gaussian_epsilon(sigma, rate, steps, delta) <= MOST_ABOVE * epsilon
        return least <= sigma <= MAX_NOISE_MULTIPLIER and 0 <= spent <= epsilon and plausible

    key = ("noise multiplier", ACCOUNTANT, DISCRETISATION, epsilon, delta, rate, steps)
    sigma, spent = cached(key, 2, compute, holds)
    return sigma, spent


def _search(epsilon: float, delta: float, rate: float, steps: int) -> float:
    from scipy.optimize import brentq  # 0.4 s to import; a plan that was kept needs no search

    least = spent_epsilon(MAX_NOISE_MULTIPLIER, rate, steps, delta)
    if least > epsilon:
        raise PrivacyError(
            f"privacy.epsilon {epsilon:.3g} at delta {delta:g} is not possible with {steps} steps "
            f"at sampling rate {rate:g}: even noise {MAX_NOISE_MULTIPLIER:g} times the clip norm "
            f"spends {least:.3g}",
            f"Use epsilon {least * 1.01:.3g} or more, or fewer rounds or local steps. "
            "(Useful budgets are about 1 to 8.)",
        )
    low, high = 1.0, 2.0
    while spent_epsilon(high, rate, steps, delta) > epsilon:
        low, high = high, high * 2
    # Down in small steps, because distributions for very little noise are slow to compute.
    while low > MIN_NOISE_MULTIPLIER and spent_epsilon(low, rate, steps, delta) <= epsilon:
        low, high = low * 0.7, low
    if low <= MIN_NOISE_MULTIPLIER:
        return high

    def excess(log_sigma: float) -> float:
        spent = spent_epsilon(math.exp(log_sigma), rate, steps, delta)
        return math.log(min(max(spent, 1e-9), 1e6)) - math.log(epsilon)

    sigma = math.exp(brentq(excess, math.log(low), math.log(high), xtol=5e-5))
    while spent_epsilon(sigma, rate, steps, delta) > epsilon:  # the root may be slightly too low
        sigma *= 1 + 5e-5
    return sigma


@functools.lru_cache(maxsize=1024)
def spent_epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Return an upper bound on epsilon at delta after that many steps; inf if sigma is too low."""
    if not steps:
        return 0.0  # nothing was released
    import dp_accounting  # with SciPy 0.6 s; a plan that was kept needs no accountant
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    accountant = PLDAccountant(value_discretization_interval=DISCRETISATION)
    return float(accountant.compose(event, steps).get_epsilon(delta))


def gaussian_epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Estimate epsilon at delta by the central limit theorem: many subsampled Gaussian steps are
    nearly one Gaussian mechanism of mu = rate sqrt(steps (exp(1 / sigma^2) - 1)) (Bu, Dong, Long
    and Su, Harvard Data Science Review 2020), whose delta(epsilon) is known (Dong, Roth and Su,
    JRSS B 2022, corollary 2.13). An estimate and no bound: it finds a multiplier that is far off.
    """
    mu = rate * math.sqrt(steps * math.expm1(min(sigma**-2, 600.0)))

    def delta_of(epsilon: float) -> float:
        return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)

    low, high = 0.0, 1.0
    while delta_of(high) > delta:
        low, high = high, 2 * high
        if high > 500:
            return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return high


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def rounds_within(
    epsilon: float, delta: float, rate: float, sigma: float, steps: int, rounds: int
) -> int:
    """Return how many whole rounds that noise multiplier keeps within (epsilon, delta)."""
    low, high = 0, rounds + 1
    while high - low > 1:
        middle = (low + high) // 2
        if spent_epsilon(sigma, rate, steps * middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low

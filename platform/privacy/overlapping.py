"""What epsilon protects someone whose records stand in several silos."""

from __future__ import annotations

import math

from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import spent_epsilon
from blindsum.platform.privacy.plan import PrivacyPlan, plan


def epsilon_in(of_silo: PrivacyPlan, silos: int) -> float:
    """Return an upper bound on epsilon, at the plan's delta, of a record that so many silos have.

    With noise of each silo's own, the silos' rounds compose: as many times the steps. With shared
    noise k copies move one sum. Each is sampled by itself, so that the sum moves by j clip norms
    with the chance of j successes in k trials; moving by k whenever any is sampled leaks at least
    as much (Choquette-Choo, Ganesh, Steinke and Thakurta, ICLR 2024): one Gaussian
    of sigma / k, sampled with probability 1 - (1 - q)^k.

    Args:
        of_silo: the plan of the silo with the least noise.
    """
    sigma, rate = of_silo.noise_multiplier, of_silo.sampling_rate
    steps = of_silo.steps_per_round * of_silo.rounds
    if of_silo.share is None:
        return spent_epsilon(sigma, rate, steps * silos, of_silo.delta)
    return spent_epsilon(sigma / silos, 1 - (1 - rate) ** silos, steps, of_silo.delta)


def protection_in_two(job: Job) -> str:
    """Return how a record is protected that two silos have, in words; nothing without privacy."""
    plans = [found for name in job.roster if (found := plan(job, name))]
    if not plans or not job.private:
        return ""
    least = min(plans, key=lambda one: one.noise_multiplier)
    both = epsilon_in(least, 2)
    if not math.isfinite(both):
        return "what stands in both is hardly protected"
    return (
        f"what stands in both is protected by epsilon {both:.3g} at most, not by "
        f"{least.epsilon_planned:.3g}"
    )

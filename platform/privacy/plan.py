"""Planning and accounting of the record-level (epsilon, delta) of a silo's whole run.

Unit: one record of one silo's table; neighbouring tables differ by adding or removing one.
Mechanism: DP-SGD (Abadi et al., CCS 2016, algorithm 1): Poisson sample with rate q, clip
each record's gradient to C, add N(0, (sigma C)^2) to the sum, divide by a public constant.
Accounting: privacy loss distributions of the Poisson-subsampled Gaussian (Koskela et al.,
AISTATS 2020; Doroshenko et al., PoPETs 2022) from dp-accounting, discretised pessimistically,
so that every epsilon is an upper bound.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.privacy_section import LocalNoise, SharedNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import (
    ACCOUNTANT,
    DISCRETISATION,
    calibrated,
    rounds_within,
    spent_epsilon,
)
from blindsum.platform.privacy.adaptive_clipping import count_deviation
from blindsum.platform.privacy.plan_cache import cached
from blindsum.platform.privacy.shared_noise import share_deviation, shared_range

UNIT = "one record; neighbours differ by adding or removing one"
DEFAULT_RANGE = 1.0
PRECOMPUTED = 300
"""Rounds whose epsilon is computed at the start. Later rounds take about 25 ms each."""
HELD_OUT_WEIGHT = 0.5
HELD_OUT_SENSITIVITY = math.sqrt(1 + 2 * HELD_OUT_WEIGHT**2)
"""The L2 norm of what a held-out record adds to the counts: one to the correct or to the wrong
records, and at most HELD_OUT_WEIGHT each to its class and to the loss. A lower weight there means
less noise on the accuracy."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """One silo's planned spend. Public: no field depends on the silo's data.

    `noise_multiplier` is sigma, the noise's deviation in units of the clip norm. `share` is the
    deviation of the silo's share of the noise under shared noise, and None if each silo adds its
    own. `count_noise` is the deviation of the noise on the count of unclipped records, 0 without
    adaptive clipping. `rounds_within_budget` is below `rounds` only for a noise multiplier fixed by
    hand.

    The methods return plans for simulations in one process, in which each participant's trainer
    adds its noise itself.
    """

    epsilon: float
    delta: float
    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    steps_per_round: int
    rounds: int
    rounds_within_budget: int
    epsilon_planned: float
    share: float | None = None
    count_noise: float = 0.0

    @property
    def update_noise(self) -> float:
        """The noise multiplier of the update. It exceeds sigma if unclipped records are counted
        too, so that both together are one mechanism with sigma (theorem 1 of Andrew, Thakkar,
        McMahan and Ramaswamy, NeurIPS 2021)."""
        if not self.count_noise:
            return self.noise_multiplier
        return 1 / math.sqrt(self.noise_multiplier**-2 - (2 * self.count_noise) ** -2)

    @property
    def own_noise(self) -> float:
        """The standard deviation of the noise that the silo adds to its clipped sum."""
        return self.update_noise * self.clip_norm if self.share is None else self.share

    def alone(self) -> PrivacyPlan:
        """Return the plan of a silo that trains alone: the whole sigma in its own sum, no count."""
        return replace(self, share=None, count_noise=0.0)

    def without_noise(self) -> PrivacyPlan:
        """Return a plan with the same clipping and no noise. It protects nothing; audits use it."""
        share = None if self.share is None else 0.0
        return replace(self, noise_multiplier=0.0, share=share, count_noise=0.0)

    def in_a_run(self) -> PrivacyPlan:
        """Return the plan of a participant that adds the noise which the silo adds in a run: its
        share, or all."""
        own = self.update_noise if self.share is None else self.share / self.clip_norm
        return replace(self.alone(), noise_multiplier=own)

    def of_the_sum(self, silos: int) -> PrivacyPlan:
        """Return the plan of one of `silos` participants.

        Under shared noise their noise adds up to one sigma, so each has sigma / sqrt(silos). That
        is the noise which remains in a run if as many silos collude as it allows for. If each silo
        adds its whole noise, the plan is `alone`.
        """
        own = self.noise_multiplier / math.sqrt(silos) if self.share is not None else None
        return self.alone() if own is None else replace(self.alone(), noise_multiplier=own)

    def in_the_mean(self, silos: int, fraction: float = 1.0) -> PrivacyPlan:
        """Return the plan of one silo that stands for all.

        The ratio of its noise to its own signal equals that ratio in the mean of `silos` updates.
        So its noise multiplier is sigma / silos under shared noise, and sigma / sqrt(silos) if each
        silo adds its whole noise.

        Args:
            fraction: the fraction of the silo's records on which it trains; the divisor scales
                with it.
        """
        fewer = math.sqrt(silos) if self.share is None else silos
        own = fraction * self.update_noise / fewer
        return replace(self.alone(), noise_multiplier=own)


def plan(job: Job, silo: str) -> PrivacyPlan | None:
    """Return the plan of one silo's whole run, or None without differential privacy.

    Raises:
        PrivacyError: no noise multiplier up to MAX_NOISE_MULTIPLIER meets the budget, or a fixed
            one does not cover a single round. The message names the nearest possible plan.
    """
    section = job.privacy
    if section.noise == "none":
        return None
    try:
        if section.noise == "shared":
            return _shared_plan(job, section, silo)
        own = _plan(
            _budget(job, section, silo),
            section.delta,
            job.training.sampling_rate,
            section.noise_multiplier,
            section.clip_norm,
            job.training.local_steps,
            job.training.rounds,
        )
        # The sum of the silos' noise is what a central party that knew all counts would add.
        own_noise = count_deviation(job, own.noise_multiplier) / math.sqrt(job.least_silos)
        return (
            replace(own, count_noise=max(own_noise, own.noise_multiplier))
            if section.clip_quantile
            else own
        )
    except PrivacyError as error:
        raise error.located(silo=silo) from None


def noise_of_total(job: Job) -> float:
    """Return the standard deviation of the noise on a round's total if all silos take part; 0
    without differential privacy. Raises as `plan`."""
    return math.hypot(*(own.own_noise for name in job.roster if (own := plan(job, name))))


def _budget(job: Job, section: LocalNoise | SharedNoise, silo: str) -> float:
    return min(section.epsilon, job.silo(silo).epsilon or section.epsilon)


def _shared_plan(job: Job, section: SharedNoise, silo: str) -> PrivacyPlan:
    """Return a silo's plan under shared noise. One noise of deviation S, which the least strict
    budget needs, protects all silos' records. A silo with a stricter budget clips harder:
    C = S / sigma."""
    plans = {
        name: _plan(
            _budget(job, section, name),
            section.delta,
            job.training.sampling_rate,
            None,
            section.clip_norm,
            1,
            job.training.rounds,
        )
        for name in job.roster
    }
    if section.clip_quantile:
        counted = count_deviation(job, max(p.noise_multiplier for p in plans.values()))
        plans = {name: replace(one, count_noise=counted) for name, one in plans.items()}
    total = section.clip_norm * min(p.update_noise for p in plans.values())
    own = plans[silo]
    return replace(
        own,
        clip_norm=total / own.update_noise,
        share=share_deviation(total, job.least_silos, section.colluders),
    )


def metrics_plan(job: Job) -> PrivacyPlan | None:
    """Return the plan for every silo's held-out records, or None if their counts are exact.

    Each evaluation is one Gaussian mechanism, without sampling, on counts that a record changes by
    at most HELD_OUT_SENSITIVITY in L2. A record is either in training or held out, never both, so
    the plans' epsilons do not add up within a job (parallel composition).

    Raises:
        PrivacyError: no noise multiplier meets the budget.
    """
    section = job.privacy
    if section.noise == "none" or section.metrics_epsilon is None:  # job.noises_held_out
        return None
    evaluations = sum(map(job.evaluates, range(1, job.training.rounds + 1)))
    try:
        found = _plan(
            section.metrics_epsilon, section.delta, 1.0, None, HELD_OUT_SENSITIVITY, 1, evaluations
        )
    except PrivacyError:
        raise PrivacyError(
            f"privacy.metrics_epsilon {section.metrics_epsilon:g} is not possible with "
            f"{evaluations} evaluations",
            "Raise privacy.metrics_epsilon or privacy.metrics_every.",
        ) from None
    whole = found.noise_multiplier * found.clip_norm
    if section.noise == "shared":
        whole = share_deviation(whole, job.least_silos, section.colluders)
    return replace(found, share=whole)


def update_range(job: Job, plan: PrivacyPlan | None) -> float:
    """Return the first round's range: the job's, or the range that clipping and noise need."""
    if job.privacy.noise == "shared" and plan is not None:
        return shared_range(greatest_sum(job), plan.share or 0.0)
    return job.encryption.range or DEFAULT_RANGE


def greatest_sum(job: Job) -> float:
    """Return where a coordinate of a silo's clipped sum is cut under shared noise."""
    clip_norm = 0.0 if job.privacy.noise == "none" else job.privacy.clip_norm
    return clip_norm * job.training.expected_batch_size


@functools.lru_cache(maxsize=64)
def _plan(
    epsilon: float,
    delta: float,
    rate: float,
    sigma: float | None,
    clip: float,
    steps: int,
    rounds: int,
) -> PrivacyPlan:
    if sigma is None:
        sigma, planned = calibrated(epsilon, delta, rate, steps * rounds)
        return PrivacyPlan(
            epsilon=epsilon,
            delta=delta,
            sampling_rate=rate,
            noise_multiplier=sigma,
            clip_norm=clip,
            steps_per_round=steps,
            rounds=rounds,
            rounds_within_budget=rounds,
            epsilon_planned=planned,
        )
    covered = rounds_within(epsilon, delta, rate, sigma, steps, rounds)
    if covered == 0:
        one = spent_epsilon(sigma, rate, steps, delta)
        raise PrivacyError(
            f"one round at privacy.noise_multiplier {sigma:g} spends epsilon {one:.3g}, "
            f"above the budget of {epsilon:g}",
            "Raise the multiplier, or omit it to have it computed.",
        )
    planned = spent_epsilon(sigma, rate, steps * covered, delta)
    return PrivacyPlan(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=rate,
        noise_multiplier=sigma,
        clip_norm=clip,
        steps_per_round=steps,
        rounds=rounds,
        rounds_within_budget=covered,
        epsilon_planned=planned,
    )


def compute_ahead(job: Job) -> None:
    """Have every silo's plan and epsilon table in the cache, for silos that share this machine.

    Raises:
        PrivacyError: as `plan`.
    """
    for name in job.roster:
        if own := plan(job, name):
            Accountant(own).precompute()
    metrics_plan(job)


class Accountant:
    """An accountant of whole rounds, composed as in the plan. An epsilon takes about 10 ms."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self._plan = plan
        self._after = {0: 0.0}

    @functools.cached_property
    def _step(self) -> Any:
        # Imported here: a table that was kept needs no composition.
        from dp_accounting.pld import privacy_loss_distribution

        return privacy_loss_distribution.from_gaussian_mechanism(
            self._plan.noise_multiplier,
            value_discretization_interval=DISCRETISATION,
            sampling_prob=self._plan.sampling_rate,
        )

    def epsilon_after(self, rounds: int) -> float:
        """Return epsilon at the plan's delta after that many charged rounds or attempts."""
        if rounds not in self._after:
            self._after[rounds] = self._composed(rounds)
        return self._after[rounds]

    def precompute(self) -> None:
        """Know epsilon after each of the first rounds, so that no round waits for a composition.

        A table that was kept counts only if it never falls, and ends at the plan's epsilon.
        """
        plan, rounds = self._plan, min(self._plan.rounds_within_budget, PRECOMPUTED)
        key = ("epsilon after each round", ACCOUNTANT, DISCRETISATION, plan.noise_multiplier)
        table = cached(
            (*key, plan.sampling_rate, plan.steps_per_round, plan.delta, rounds),
            rounds,
            lambda: [self._composed(number) for number in range(1, rounds + 1)],
            lambda kept: (
                all(a <= b for a, b in pairwise([0.0, *kept]))
                and (rounds < plan.rounds_within_budget or self._is_planned(kept[-1]))
            ),
        )
        self._after |= dict(enumerate(table, start=1))

    def _is_planned(self, epsilon: float) -> bool:
        return math.isclose(epsilon, self._plan.epsilon_planned, rel_tol=1e-6)

    def _composed(self, rounds: int) -> float:
        whole = self._step.self_compose(rounds * self._plan.steps_per_round)
        return float(whole.get_epsilon_for_delta(self._plan.delta))


def _against(colluders: int) -> str:
    """Return up to how many colluding silos a guarantee holds, in words."""
    if colluders == 0:
        return "holds if no silo colludes"
    return f"holds even if {colluders} {'silo colludes' if colluders == 1 else 'silos collude'}"


_NAMES = {
    "trees": "sums of clipped derivatives for boosted trees",
    "regression": "sums of clipped scores and information for a regression",
    "statistics": "sums of what records contribute, bounded for each record",
}


def describe(section: LocalNoise | SharedNoise, kind: str = "") -> dict[str, str]:
    """Return what a reader needs to judge an epsilon, for MLflow and the closing summary.

    Args:
        kind: of model.
    """
    name = _NAMES.get(kind, "DP-SGD")
    mechanism = f"{name}, Gaussian noise added inside each silo"
    if section.noise == "shared":
        mechanism = (
            f"{name} over all silos: each adds a share of the Gaussian noise, then rounds; the "
            f"guarantee {_against(section.colluders)}"
        )
    return {
        "unit": UNIT,
        "mechanism": mechanism,
        "sampler": "Poisson",
        "accountant": ACCOUNTANT,
        "generator": "AES-128 counter mode, seeded by the operating system",
        "delta": f"{section.delta:g}",
    }

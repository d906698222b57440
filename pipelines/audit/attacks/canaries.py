"""Test whether the implementation keeps its epsilon: a lower bound from one run with many canaries.

Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023: a coin flip
decides for each of m canaries whether it is included; the auditor guesses the coins of the r
canaries it is most sure of. More right guesses than (epsilon, delta) allows refute it (theorem 5.2;
`refutes`). A second bound uses the whole trade-off curve of the Gaussian mechanism instead of two
numbers (Mahloujifar, Melis and Chaudhuri, "Auditing f-differential privacy in one run", ICML 2025,
algorithm 3).

The audit runs the product's own training step (`LocalTrainer`: sampling, clipping, and noise or the
integer shares of shared noise) with the silo's plan. Only model and records are the audit's: a
linear model with one input for each canary, whose gradients are orthogonal and longer than the clip
norm, the worst case that the plan covers. The white-box auditor sees every update, the black-box
auditor only the last model's confidence in each canary. A run without noise comes first: an audit
that finds no leak there cannot find one elsewhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, stats
from scipy.special import ndtr, ndtri
from torch import nn

from blindsum.pipelines.audit.attacks.forests import forest_section
from blindsum.pipelines.audit.attacks.tree_canaries import train_on_canaries
from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.privacy.shared_noise import noised_integers
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.update import Protection, Update

Scores = npt.NDArray[np.float64]
GUESSES = (20, 50, 100, 200, 400, 800)
CONFIDENCE = 0.95
UNITS = 256
LENGTH = 100.0
"""Size of a canary's one feature, in clip norms: its gradient stays longer than one clip norm."""


@dataclass(frozen=True)
class Bound:
    """Lower bounds on epsilon that hold with CONFIDENCE, and the guesses they rest on.

    `gaussian` holds only if the mechanism is Gaussian; `right` of `guesses` guesses were right.
    """

    epsilon: float
    gaussian: float
    guesses: int
    right: int

    @property
    def best(self) -> float:
        """The larger of the two bounds. Not for output: they hold under different assumptions."""
        return max(self.epsilon, self.gaussian)


def audit(
    job: Job, plan: PrivacyPlan, canaries: int = 1000, *, noise: bool = True
) -> dict[str, Bound]:
    """Train once on canaries with the plan; return the bounds for "white box" and "black box".

    Args:
        canaries: number of canaries, each included with probability one half.
        noise: False removes the noise, to show what the audit can find.
    """
    coins = np.random.default_rng().random(canaries) < 0.5
    white, black = _train(
        job,
        plan if noise else plan.without_noise(),
        canaries,
        coins,
    )
    return {
        "white box": bound(white, coins, plan.delta),
        "black box": bound(black, coins, plan.delta),
    }


def _train(
    job: Job, plan: PrivacyPlan, canaries: int, coins: npt.NDArray[np.bool_]
) -> tuple[Scores, Scores]:
    """Train on the included canaries; return both auditors' scores: a higher score says member."""
    if forest_section(job):
        return train_on_canaries(job, plan, coins, lambda made: _opened(job, plan, made))
    features = np.zeros((int(coins.sum()), canaries), np.float32)
    length = LENGTH * max(1.0, plan.clip_norm)
    features[np.arange(len(features)), np.flatnonzero(coins)] = length
    model = nn.Linear(canaries, 2, bias=False)
    nn.init.zeros_(model.weight)
    fold = Fold(features, np.zeros(len(features), np.int64))
    # A small step keeps canaries unlearned and their gradients long.
    rate = 1e-4 / length * job.training.expected_batch_size
    training = job.training.model_copy(update={"learning_rate": rate})
    trainer = LocalTrainer(model, fold, training, plan, cryptographic_generator())
    vector, scores = get_parameters(model), np.zeros(canaries)
    for _ in range(plan.rounds_within_budget):
        made = trainer.train(vector)
        update = _opened(job, plan, made) * made.unit
        vector = (vector + update).astype(np.float32)
        # The direction of class 0's gradient: negative in its own row, positive in the other.
        scores += update.reshape(2, canaries)[0] - update.reshape(2, canaries)[1]
    set_parameters(model, vector)
    with torch.no_grad():
        logits = model(torch.eye(canaries) * length).double().numpy()
    return scores, logits[:, 0] - logits[:, 1]


def _opened(job: Job, plan: PrivacyPlan, made: Update) -> Scores:
    """Return what an auditor sees of an update."""
    sums: Scores = made.values.astype(np.float64)
    if made.protected_by is not Protection.SHARES_TO_ADD:
        return sums
    honest = len(job.silos) - job.privacy.colluders if job.privacy.noise == "shared" else 0
    return _with_shares(sums, plan.share or 0.0, honest)


def _with_shares(sums: Scores, share: float, honest: int) -> Scores:
    """Return the opened sum: the silo's integers, and other honest silos' shares of the noise."""
    random, unit = cryptographic_generator(), max(share, 1e-12) / UNITS
    sent = noised_integers(sums, math.inf, share, unit, random)
    for _ in range(honest - 1):
        sent = sent + noised_integers(np.zeros_like(sums), math.inf, share, unit, random)
    return np.asarray(sent * unit, np.float64)


def bound(scores: Scores, coins: npt.NDArray[np.bool_], delta: float) -> Bound:
    """Return the best lower bounds over several numbers of guesses, at their joint confidence."""
    order, canaries = np.argsort(-scores), len(scores)
    tried = [r for r in GUESSES if r <= canaries]
    # Union bound: for each number of guesses, two bounds and two views of the same run.
    beta, best = (1 - CONFIDENCE) / (4 * len(tried)), Bound(0.0, 0.0, 0, 0)
    for guesses in tried:
        half = guesses // 2
        right = int(coins[order[:half]].sum() + (~coins[order[-half:]]).sum())
        epsilon = _largest(
            functools.partial(refutes, canaries, guesses, right, delta=delta, beta=beta)
        )
        mu = _largest(functools.partial(refutes_gaussian, canaries, guesses, right, beta=beta))
        found = Bound(epsilon, _epsilon_of(mu, delta), guesses, right)
        if found.best > best.best:
            best = found
    return best


def refutes(
    canaries: int, guesses: int, right: int, epsilon: float, *, delta: float, beta: float
) -> bool:
    """Return whether that many right guesses refute (epsilon, delta).

    Steinke et al., theorem 5.2 and appendix D.
    """
    q = 1 / (1 + math.exp(-epsilon))
    tail = stats.binom.sf(right - 1, guesses, q)
    alpha = 0.0
    if delta and right:
        i = np.arange(1, right + 1)
        alpha = max(0.0, float(((stats.binom.sf(right - i - 1, guesses, q) - tail) / i).max()))
    return float(tail + alpha * delta * 2 * canaries) <= beta


def refutes_gaussian(canaries: int, guesses: int, right: int, mu: float, *, beta: float) -> bool:
    """Return whether that many right guesses refute the Gaussian trade-off curve of `mu`.

    Mahloujifar et al., algorithm 3.
    """

    def back(x: float) -> float:
        return float(ndtr(ndtri(x) - mu))

    r, h = beta * right / canaries, beta * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        following = max(h, back(min(r, 1.0)))
        if following > h:
            r = min(r + i / (guesses - i) * (following - h), 1.0)
            h = following
    return r + h > guesses / canaries


def _largest(refuted: Callable[[float], bool]) -> float:
    """Return the largest refuted parameter, 0 if none is refuted."""
    if not refuted(1e-6):
        return 0.0
    low, high = 1e-6, 1.0
    while refuted(high) and high < 64:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _epsilon_of(mu: float, delta: float) -> float:
    """Return a Gaussian mechanism's epsilon at delta (Dong, Roth and Su, 2022, corollary 2.13)."""

    def excess(epsilon: float) -> float:
        upper = ndtr(mu / 2 - epsilon / mu)
        return float(upper - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)) - delta

    if mu <= 1e-3 or excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, 500.0))

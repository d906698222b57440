"""Identify a record among candidates in a job of trees, knowing everything but that record.

As `candidates`: Balle, Cherubin and Hayes, IEEE S&P 2022, and Hayes, Mahloujifar and Balle, NeurIPS
2023. The adversary subtracts all other records' part from the sums of every round. The rest is what
the record adds, in the rounds that sampled it, and noise. The forest is one that was grown before,
so every candidate's part is known in every round, and maximum likelihood picks the candidate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.forests import grown, job_of
from blindsum.pipelines.audit.attacks.tree_sums import Seen
from blindsum.pipelines.audit.evidence import Figure, proportion
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.trees.boosting import UNIT, Boosting
from blindsum.platform.training.trees.forest import vector_of

CANDIDATES, TRIALS = 64, 2000
MOST_ROUNDS = 200
"""Rounds that are attacked: further ones are left out, which favours the job."""

EXACT = 1e-3
"""The noise without privacy, in sizes of what a record adds: numbers that are not infinite."""


def identify_in_trees(
    victim: Victim, section: Boosted, plan: PrivacyPlan | None, seed: int = 0
) -> Figure:
    """Return how often the attack names the right candidate; the floor is a random guess.

    Args:
        plan: None for training without privacy.
    """
    random = np.random.default_rng(seed)
    fold = victim.data.train
    rows = random.permutation(len(fold))[:CANDIDATES]
    rounds = min(victim.plan.rounds_within_budget, MOST_ROUNDS)
    grams = _grams(victim, section, plan, rows, rounds)
    rate = victim.job.training.sampling_rate
    target = random.integers(0, len(rows), TRIALS)
    noise = plan.update_noise * plan.clip_norm / UNIT if plan else EXACT * np.sqrt(grams.max())
    likelihood = np.zeros((TRIALS, len(rows)))
    for gram in grams:
        sampled = random.random(TRIALS) < rate
        values, vectors = np.linalg.eigh(gram)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = noise * random.normal(size=(TRIALS, len(rows))) @ root.T
        products = sampled[:, None] * gram[target] + drawn
        fit = (products - np.diag(gram) / 2) / noise**2
        likelihood += fit if rate == 1 else np.logaddexp(np.log(rate) + fit, np.log1p(-rate))
    hits = int((likelihood.argmax(1) == target).sum())
    return proportion(hits, TRIALS, floor=1 / len(rows))


def _grams(
    victim: Victim,
    section: Boosted,
    plan: PrivacyPlan | None,
    rows: npt.NDArray[np.int64],
    rounds: int,
) -> npt.NDArray[np.float64]:
    """Return the inner products of what candidates add, by round, [rounds, candidates,
    candidates]."""
    job, fold = job_of(victim.job, plan), victim.data.train
    alone = victim.alone() if plan else None
    every = victim.plan.rounds_within_budget
    forest = vector_of(grown(job, section, fold, alone, every, np.random.default_rng(0)))
    seen = Seen(job, Boosting(job, section), plan, [forest] * rounds)
    found = np.zeros((rounds, len(rows), len(rows)))
    added = [
        seen.replayed(Fold(fold.stored[one], fold.stored_labels[one]), range(1, rounds + 1))
        for one in rows[:, None]
    ]
    for round, of_candidates in enumerate(zip(*added, strict=True)):
        flat = np.stack([one.ravel() for one in of_candidates])
        found[round] = flat @ flat.T
    return found

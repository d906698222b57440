"""Canaries for a job of trees: each has a leaf of its own, in all trees.

There is one feature with 256 bins, of which every tree of depth 8 makes a leaf each, and a task for
every 256 canaries. A canary is labelled in one task only, so that no other record adds to its leaf.
It adds more than the clip norm before clipping. Sampling, clipping, noise and leaves are those of
the product (`TreeTrainer`, `SumsOptimizer`). Splits are public, also where the job chooses them: a
level of histograms is the same mechanism as leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.forests import job_of
from blindsum.platform.data.records import Fold
from blindsum.platform.job.features_section import Columns, FeatureColumn
from blindsum.platform.job.labels_section import Task
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer
from blindsum.platform.training.trees.forest import Forest, vector_of
from blindsum.platform.training.update import Update

Scores = npt.NDArray[np.float64]
DEPTH, LEAVES = 8, 256
WEIGHT = 100.0
"""Of a canary's loss, in clip norms: its derivatives are longer than one."""

RATE = 1e-4
"""A small step keeps canaries unlearned, and their derivatives long."""


def train_on_canaries(
    job: Job,
    plan: PrivacyPlan,
    coins: npt.NDArray[np.bool_],
    opened: Callable[[Update], Scores],
) -> tuple[Scores, Scores]:
    """Grow a forest on the included canaries; return the scores of the auditor who sees every sum,
    and of the one who sees the last forest: a higher score says member.

    Args:
        opened: what an auditor sees of an update.
    """
    changed, section = _job(job, plan, len(coins))
    boosting = Boosting(changed, section)
    leaf, task = np.arange(len(coins)) % LEAVES, np.arange(len(coins)) // LEAVES
    labels = np.full((len(coins), 2, boosting.outputs), np.nan, np.float32)
    labels[:, 1], labels[np.arange(len(coins)), 0, task] = 0.0, 1.0
    features = leaf[:, None].astype(np.float32)
    fold = Fold(features[coins], labels[coins])
    trainer = TreeTrainer(boosting, changed, fold, plan, cryptographic_generator())
    optimizer = SumsOptimizer(boosting, changed)
    forest = vector_of(Forest(section.trees, boosting.outputs, DEPTH))
    white = np.zeros(len(coins))
    for round in range(1, plan.rounds_within_budget + 1):
        update = trainer.train(forest, 1.0, round)
        mean = opened(update) * update.unit
        forest = optimizer.apply(forest, mean, round, 1)
        sums = mean.reshape(boosting.shape(round))[task, leaf]
        white += sums[:, 1] - sums[:, 0]  # label 1: g is negative, h positive
    trees = boosting.trees(forest)
    return white, trees.value.sum(0, dtype=np.float64)[task, leaf]


def _job(job: Job, plan: PrivacyPlan, canaries: int) -> tuple[Job, Boosted]:
    """Return a job like this one, of canaries."""
    weight = WEIGHT * max(1.0, plan.clip_norm)
    tasks = {f"t{i}": Task(kind="binary", weight=weight) for i in range(-(-canaries // LEAVES))}
    features = Columns(kind="columns", columns={"leaf": FeatureColumn()})
    data = job.data.model_copy(update={"features": features, "target": None, "tasks": tasks})
    section = Boosted(
        kind="trees",
        trees=plan.rounds_within_budget,
        split="cyclic",
        max_depth=DEPTH,
        max_bin=LEAVES,
        edges={"leaf": (np.arange(LEAVES - 1) + 0.5).tolist()},
    )
    training = job.training.model_copy(update={"learning_rate": RATE})
    made = job_of(job, plan, training).model_copy(update={"data": data, "model": section})
    return made, section

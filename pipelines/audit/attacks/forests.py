"""Grow forests as a job of trees grows its own: for attacks that need several, and without privacy
for a job with it, or the other way round."""

from __future__ import annotations

import numpy as np

from blindsum.platform.data.records import Fold
from blindsum.platform.job.privacy_section import LocalNoise, NoNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer, grow
from blindsum.platform.training.trees.forest import Forest


def forest_section(job: Job) -> Boosted | None:
    """Return a job's section of trees, or None if it has another model."""
    return job.model if isinstance(job.model, Boosted) else None


def job_of(job: Job, plan: PrivacyPlan | None, training: TrainingSection | None = None) -> Job:
    """Return the job with or without privacy, as a plan has it: boosting counts exactly without."""
    privacy = job.privacy
    if plan is None:
        privacy = NoNoise(noise="none")
    elif privacy.noise == "none":
        privacy = LocalNoise(noise="local", epsilon=plan.epsilon, delta=plan.delta)
    return job.model_copy(update={"privacy": privacy, "training": training or job.training})


def grown(
    job: Job,
    section: Boosted,
    fold: Fold,
    plan: PrivacyPlan | None,
    rounds: int,
    random: np.random.Generator,
    *,
    training: TrainingSection | None = None,
    silos: int = 1,
) -> Forest:
    """Return the job's forest after some rounds over the records of one participant.

    Args:
        plan: of a participant that adds its noise itself; None for exact sums.
        silos: how many such participants this one stands for.
    """
    changed = job_of(job, plan, training)
    boosting = Boosting(changed, section)
    model = Forest(section.trees, boosting.outputs, section.max_depth)
    trainer = TreeTrainer(boosting, changed, fold, plan, random)
    grow(changed, model, trainer, boosting, rounds, lambda: None, silos)
    return model

"""A participant's view of a job of trees: the other silos' sums of every round.

A participant knows the job, hence the bins, and every forest. It decrypts the total of all silos
and subtracts what it sent itself. Encryption and masks change nothing here: the total is the
result. Without privacy totals are exact integers. With it, the others' clipped sums carry noise:
the plan's whole noise if it is shared, and every other silo's if each adds its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import UNIT, Boosting, TreeTrainer
from blindsum.platform.training.trees.forest import Forest, vector_of
from blindsum.platform.training.vector import Vector

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """The others' sums of g and h (under a plan clipped, with noise, and h times its weight) of the
    first rounds, shaped as `Boosting.shape` and in units of UNIT, and the forest before each."""

    job: Job
    boosting: Boosting
    plan: PrivacyPlan | None
    forests: list[Vector] = field(default_factory=list)
    sums: list[Sums] = field(default_factory=list)

    @functools.cached_property
    def _every_record(self) -> Job:
        """The job with all records in every round, for sums of records that were found."""
        training = self.job.training.model_copy(update={"sampling_rate": 1.0})
        return self.job.model_copy(update={"training": training})

    def replayed(self, fold: Fold, rounds: Iterable[int]) -> Iterator[Sums]:
        """Yield the sums of known records, without noise, in those rounds."""
        plan = self.plan and self.plan.alone().without_noise()
        random = np.random.default_rng(0)
        trainer = TreeTrainer(self.boosting, self._every_record, fold, plan, random)
        for round in rounds:
            update = trainer.train(self.forests[round - 1], 1.0, round)
            sums = update.values * (update.unit / unit_of(self.job, self.plan))
            yield sums.reshape(self.boosting.shape(round))


def watch(
    job: Job,
    section: Boosted,
    others: Fold,
    own: Fold,
    plan: PrivacyPlan | None,
    rounds: int,
    silos: int,
) -> Seen:
    """Grow a forest from the records of a participant and of the others; return what it sees.

    Args:
        plan: of a silo; None without privacy.
        silos: of the job, the participant included.
    """
    boosting, random = Boosting(job, section), cryptographic_generator()
    optimizer, bare, noised = SumsOptimizer(boosting, job), None, None
    if plan:
        bare = plan.alone().without_noise()
        noise = noise_of_others(plan, silos) * UNIT / plan.clip_norm
        noised = replace(bare, noise_multiplier=noise)
    trainers = [
        TreeTrainer(boosting, job, fold, one, random)
        for fold, one in ((others, noised), (own, bare))
    ]
    forest = vector_of(Forest(section.trees, boosting.outputs, section.max_depth))
    seen = Seen(job, boosting, plan)
    for round in range(1, rounds + 1):
        updates = [one.train(forest, 1.0, round) for one in trainers]
        sent, mine = (one.values * one.unit for one in updates)
        total = sent + mine
        seen.forests.append(forest)
        seen.sums.append(((total - mine) / unit_of(job, plan)).reshape(boosting.shape(round)))
        forest = optimizer.apply(forest, total / silos, round, silos)
    return seen


def unit_of(job: Job, plan: PrivacyPlan | None) -> float:
    """Return what a sum of UNIT is in an update."""
    if plan is None:
        return 1.0
    return UNIT * job.training.learning_rate / job.training.expected_batch_size


def noise_of_others(plan: PrivacyPlan, silos: int) -> float:
    """Return the deviation of the noise on the others' sums, in units of UNIT."""
    times = 1.0 if plan.share is not None else math.sqrt(silos - 1)
    return plan.update_noise * plan.clip_norm * times / UNIT

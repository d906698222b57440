"""Models that follow from sums over the silos' records, in place of gradients.

In a round every silo sums what its records contribute, the silos add their sums as they add
updates, and all compute the next model from the total. Under differential privacy a record's
contribution is bounded in L2 by the clip norm, so that noise and accounting are those of DP-SGD
(`blindsum.platform.privacy.plan`). Without privacy, contributions are rounded to multiples of a
unit and added as integers: sums are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.table import SiloData
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import normals
from blindsum.platform.training.update import Protection, Update
from blindsum.platform.training.vector import Vector

Reals = npt.NDArray[np.float64]


class Summed(ABC):
    """A kind of model that follows from sums: the size of a round's sums, and the next model.

    Attributes:
        secret: 32 bytes from the newest key ceremony, that all silos have and nobody else.
        state: what all silos keep beside the model, as of `SumsOptimizer`.
    """

    secret: bytes | None = None
    state: tuple[Reals, ...] = ()

    @abstractmethod
    def values(self, round: int) -> int:
        """Return the number of a round's sums."""

    @property
    @abstractmethod
    def different_rounds(self) -> int:
        """The number of rounds after which the numbers of sums repeat."""

    def weights(self, round: int) -> float | Reals:
        """Return by what sums are multiplied before they are clipped and noised, [values]. A larger
        weight spends more of the clip norm on a sum, and its noise is smaller."""
        return 1.0

    @abstractmethod
    def units(self, model: Vector, round: int) -> float | Reals:
        """Return the multiples to which sums are rounded without privacy, [values].

        Args:
            model: the one before the round.
        """

    @abstractmethod
    def trainer(
        self, data: SiloData, plan: PrivacyPlan | None, random: np.random.Generator
    ) -> SumsTrainer:
        """Return one silo's part, as of `SumsTrainer`."""

    @abstractmethod
    def moved_on(self, vector: Vector, sums: Reals, round: int) -> Vector:
        """Return the next model from the one before it and all silos' sums, [values]."""


class SumsTrainer(ABC):
    """One silo's part: its sums in each round.

    Args:
        plan: its privacy plan; None without.
        random: draws samples, and with a plan the noise that the silo adds alone.
    """

    says = ""
    """As of `LocalTrainer`: how contributions are clipped needs no trial."""

    def __init__(self, job: Job, plan: PrivacyPlan | None, random: np.random.Generator) -> None:
        self._job, self._plan, self._random = job, plan, random

    @abstractmethod
    def sums(self, start: Vector, clip: float | None, round: int) -> tuple[Reals, float]:
        """Return the silo's sums, and the records within the clip norm minus half of all.

        Args:
            clip: the greatest L2 norm of what a record contributes, in units of `weights`. None
                without privacy: sums are then in `units`, and are integers.
        """

    def train(
        self,
        start: Vector,
        clipping: float = 1.0,
        round: int = 1,
        subset: object = None,
        correction: object = None,
    ) -> Update:
        """Return the silo's sums for one round, from the model before it. Jobs of such models have
        neither subsets nor corrections."""
        plan, training = self._plan, self._job.training
        if plan is None:
            sums, _ = self.sums(start, None, round)
            return Update(values=sums, unit=1.0, protected_by=Protection.NOTHING)
        sums, unclipped = self.sums(start, plan.clip_norm * clipping, round)
        unit, protected = training.learning_rate / training.expected_batch_size, _BARE
        if plan.share is None:
            noise = plan.update_noise * plan.clip_norm * clipping
            sums = (sums + noise * normals(sums.size, self._random)) * unit
            unit, protected = 1.0, Protection.OWN_NOISE
        return Update(values=sums, unit=unit, protected_by=protected, unclipped=unclipped)

    def sample(self, records: int) -> npt.NDArray[np.intp]:
        """Return the rows of a Poisson sample, ascending."""
        rate = self._job.training.sampling_rate
        if rate == 1.0:
            return np.arange(records)
        return np.flatnonzero(self._random.random(records) < rate)


class SumsOptimizer:
    """The step from the mean of silos' sums to the next model, as `ServerOptimizer` for gradients.
    Its state is what the silos keep beside the model, if anything."""

    def __init__(self, summed: Summed, job: Job) -> None:
        self._summed, self._job = summed, job

    @property
    def state(self) -> tuple[Reals, ...]:
        """The same at every silo; of checkpoints, and of what a silo that returns takes over."""
        return self._summed.state

    @state.setter
    def state(self, state: tuple[Reals, ...]) -> None:
        self._summed.state = state

    def agree_on(self, secret: bytes) -> None:
        """Take what all silos have from a new key ceremony, and nobody else."""
        self._summed.secret = secret

    def apply(self, model: Vector, mean: Reals, round: int, silos: int) -> Vector:
        """Return the next model.

        Args:
            mean: of the silos' sums times their updates' unit, [values].
            silos: the number of silos that were summed.
        """
        sums = mean * silos
        if self._job.privacy.noise == "none":
            sums = np.rint(sums) * self._summed.units(model, round)
        else:
            training = self._job.training
            sums = sums * (training.expected_batch_size / training.learning_rate)
            sums = sums / self._summed.weights(round)
        return self._summed.moved_on(model, sums, round)


def followed(
    summed: Summed,
    job: Job,
    trainer: SumsTrainer,
    start: Vector,
    rounds: int,
    done: Callable[[], None],
    silos: int = 1,
) -> Vector:
    """Return the model of one participant alone, which adds its noise itself, if any.

    Args:
        start: the model before round 1.
        done: called after each round.
        silos: how many such participants this one stands for.
    """
    optimizer, model = SumsOptimizer(summed, job), start
    for round in range(1, rounds + 1):
        update = trainer.train(model, 1.0, round)
        model = optimizer.apply(model, update.values * update.unit, round, silos)
        done()
    return model


_BARE = Protection.SHARES_TO_ADD

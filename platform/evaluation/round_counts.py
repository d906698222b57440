"""A silo's counts in a round: integers that are sent encrypted and seen only as sums.

of the update         values cut by the range, large values, gradients that were not clipped
of held-out records   the counts of `classes` or of `tasks`, of the model before the update
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import FederationError
from blindsum.platform.evaluation.classes import UNITS, ClassCounting, Counts
from blindsum.platform.evaluation.elsewhere import HeldOutElsewhere
from blindsum.platform.evaluation.figures import OF_UPDATE, Metrics, count_values, evaluates
from blindsum.platform.evaluation.scores import Figures
from blindsum.platform.evaluation.tasks import TaskCounting
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.shared_noise import noised_integers, share_deviation


@dataclass
class Tally:
    """One round's counts of the update, private to the silo. `unclipped` is the number of gradients
    within the clip norm, minus half of all; None without an update."""

    saturated: int = 0
    large: int = 0
    unclipped: float | None = None


class Counting:
    """One silo's counts, and the metrics from their sums over all silos.

    Args:
        plan: the silo's plan for its training records.
        random: draws the noise.
        own: the silo's private tasks.
        elsewhere: the processes that hold the held-out records, if this one does not.
    """

    def __init__(
        self,
        job: Job,
        plan: PrivacyPlan | None,
        data: SiloData,
        random: np.random.Generator,
        own: Tasks | None = None,
        elsewhere: HeldOutElsewhere | None = None,
    ) -> None:
        self._job, self._random = job, random
        target = job.data.target
        self._of_held_out: ClassCounting | TaskCounting = (
            ClassCounting(job, target, data, random, elsewhere)
            if target
            else TaskCounting(job.data.tasks or {}, data, own, elsewhere)
        )
        self.plan = self._of_held_out.plan
        self._unclipped_share = _count_share(job, plan)

    @property
    def by_task(self) -> dict[str, Figures]:
        """The newest held-out figures of each task, for the silo only; empty for classes."""
        of_held_out = self._of_held_out
        return of_held_out.latest if isinstance(of_held_out, TaskCounting) else {}

    def evaluates(self, round: int, roster: Sequence[str]) -> bool:
        """As `blindsum.platform.evaluation.figures.evaluates`."""
        return evaluates(self._job, round, roster)

    def of_held_out(self, model: nn.Module) -> Counts:
        """Return the counts of the silo's held-out records, int64."""
        return self._of_held_out.counts(model)

    def counts(self, tally: Tally, held_out: Counts | None) -> Counts:
        """Return the counts that the silo sends in a round, int64 [count_values].

        Args:
            held_out: as of `of_held_out`; None if no model is evaluated.
        """
        counts = np.zeros(count_values(self._job), np.int64)
        counts[:2] = tally.saturated, tally.large
        if self._unclipped_share and tally.unclipped is not None:
            share = self._unclipped_share
            unclipped = np.array([tally.unclipped])
            counts[2] = noised_integers(unclipped, math.inf, share, share / UNITS, self._random)[0]
        if held_out is not None:
            counts[OF_UPDATE:] = held_out
        return counts

    def summarise(self, counts: Counts, values: int, silos: int, evaluated: bool) -> Metrics:
        """Return the consortium's metrics from summed counts.

        Args:
            values: the number of values in all silos' updates, for the shares; 0 without updates.
            silos: the number of silos whose counts were summed.
            evaluated: whether they counted held-out records.

        Raises:
            FederationError: honest silos' counts cannot have that sum.
        """
        _require_possible(0 <= counts[1] <= values and 0 <= counts[0] <= counts[1])
        if evaluated:
            _require_possible(self._of_held_out.possible(counts[OF_UPDATE:], silos))
        unclipped = None
        if self._unclipped_share and values:
            training = self._job.training
            records = training.expected_batch_size * training.local_steps * silos
            unclipped = 0.5 + float(counts[2]) * self._unclipped_share / UNITS / records
        return Metrics(
            saturated=int(counts[0]) / max(values, 1),
            large=int(counts[1]) / max(values, 1),
            unclipped=unclipped,
            held_out=self._of_held_out.figures(counts[OF_UPDATE:], silos) if evaluated else None,
        )


def _require_possible(possible: bool) -> None:
    if not possible:
        raise FederationError(
            "the summed counts of all silos are impossible: at least one silo lies about its own",
            "The sum does not show which. Do not continue this run.",
        )


def _count_share(job: Job, plan: PrivacyPlan | None) -> float:
    """Return the deviation of a silo's noise on one round's count of unclipped gradients."""
    if plan is None or not plan.count_noise or job.privacy.noise == "none":
        return 0.0
    whole = plan.count_noise * math.sqrt(plan.steps_per_round)
    if job.privacy.noise == "shared":
        return share_deviation(whole, job.least_silos, job.privacy.colluders)
    return whole

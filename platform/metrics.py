"""What a silo counts in a round, as integers that travel encrypted and are seen only as sums.

    of the update       values cut by the range, large values, gradients that were not clipped
    of held-out records correct and wrong ones, loss, dropped molecules, records of each class

Held-out counts carry noise where the job gives held-out records a budget of their own
(`blindsum.platform.privacy.metrics_plan`): Gaussian, rounded to a unit of 1/UNITS of a silo's
share of it, as `blindsum.platform.shared_noise` explains. Else they are exact, and outputs say so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from blindsum.platform.data import SiloData
from blindsum.platform.job import Job
from blindsum.platform.privacy import HELD_OUT_WEIGHT, PrivacyPlan, metrics_plan
from blindsum.platform.shared_noise import noised_integers, share_deviation

LOSS_UNIT = 2.0**-10
"""One integer unit of an exact sum of losses, in nats."""

MAX_LOSS = 32.0
"""A record's loss is cut here, in nats, so that sums stay bounded."""

UNITS = 256
"""Integer units in one deviation of a silo's share of the noise."""

OF_UPDATE, OF_HELD_OUT = 3, 4  # counts of each kind, before those of the classes

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass
class Tally:
    """One round's counts of the update, private to the silo. `unclipped`: gradients within the
    clip norm, minus half of all."""

    saturated: int = 0
    large: int = 0
    unclipped: float = 0.0


@dataclass(frozen=True)
class HeldOut:
    """Held-out figures of the whole consortium.

    `loss` is the mean cross-entropy in nats, `largest_class` the accuracy of always guessing
    the most frequent class, `dropped` the molecules RDKit could not read, `deviation` the
    accuracy's standard deviation from the noise on the counts, 0 where they are exact.
    """

    records: int
    accuracy: float
    loss: float
    largest_class: float
    dropped: int
    deviation: float = 0.0


@dataclass(frozen=True)
class Metrics:
    """Figures of the whole consortium for one round.

    `saturated` is the share of update values cut by the range, `large` of those beyond an eighth
    of it, `unclipped` the noised share of gradients within the clip norm, where it adapts;
    `held_out` is there in rounds that were evaluated.
    """

    saturated: float
    large: float
    unclipped: float | None
    held_out: HeldOut | None

    def as_dict(self) -> dict[str, float]:
        """All figures that there are, by name."""
        held_out = asdict(self.held_out) if self.held_out else {}
        return {k: v for k, v in (asdict(self) | held_out).items() if isinstance(v, (int, float))}


def count_values(job: Job) -> int:
    """How many counts a silo sends."""
    return OF_UPDATE + OF_HELD_OUT + len(job.data.target.classes)


class Counting:
    """One silo's counts, and what their sums over all silos say.

    Args:
        plan: the silo's plan for its training records.
        random: draws the noise.
    """

    def __init__(
        self, job: Job, plan: PrivacyPlan | None, data: SiloData, random: np.random.Generator
    ) -> None:
        self._job, self._data, self._random = job, data, random
        self.plan = metrics_plan(job)
        self._classes = len(job.data.target.classes)
        self._share = self.plan.share if self.plan else 0.0
        # Under noise every record's loss counts at most one: twice the loss of guessing.
        self._max_loss = 2 * math.log(self._classes) if self.plan else MAX_LOSS
        self._weight = HELD_OUT_WEIGHT if self.plan else 1.0  # of loss and classes
        self._units = np.full(OF_HELD_OUT + self._classes, self._share / UNITS or 1.0)
        if not self.plan:
            self._units[2] = LOSS_UNIT / MAX_LOSS
        self._unclipped_share = _count_share(job, plan)

    def counts(self, model: nn.Module, round: int, tally: Tally) -> Counts:
        """What the silo sends of that round, int64 [OF_UPDATE + OF_HELD_OUT + classes]."""
        counts = np.zeros(count_values(self._job), np.int64)
        counts[:2] = tally.saturated, tally.large
        if self._unclipped_share:
            counts[2] = self._noised(
                np.array([tally.unclipped]), self._unclipped_share, self._unclipped_share / UNITS
            )[0]
        if self._job.evaluates(round):
            found = self._held_out(model)
            if self.plan:
                counts[OF_UPDATE:] = self._noised(found, self._share, self._units[0])
            else:
                counts[OF_UPDATE:] = np.rint(found / self._units)
        return counts

    def summarise(self, counts: Counts, round: int, update_values: int) -> Metrics:
        """The consortium's metrics from summed counts.

        Args:
            update_values: values in all silos' updates together, for the shares of them.
        """
        unclipped = None
        if self._unclipped_share:
            training, silos = self._job.training, len(self._job.silos)
            records = training.expected_batch_size * training.local_steps * silos
            unclipped = 0.5 + float(counts[2]) * self._unclipped_share / UNITS / records
        return Metrics(
            saturated=int(counts[0]) / update_values,
            large=int(counts[1]) / update_values,
            unclipped=unclipped,
            held_out=self._figures(counts[OF_UPDATE:] * self._units)
            if self._job.evaluates(round)
            else None,
        )

    def _held_out(self, model: nn.Module) -> Reals:
        """Sums over the silo's held-out records, which one moves by HELD_OUT_SENSITIVITY at most."""
        fold = self._data.test
        model.eval()
        labels = torch.from_numpy(fold.labels)
        with torch.no_grad():
            output = model(torch.from_numpy(fold.features))
            losses = functional.cross_entropy(output, labels, reduction="none").double()
        # A model that overflowed to NaN counts as wrong with the greatest loss.
        losses = losses.nan_to_num(self._max_loss, posinf=self._max_loss).clamp(0.0, self._max_loss)
        correct = float((output.argmax(dim=1) == labels).sum())
        loss = float(losses.sum()) / self._max_loss * self._weight
        sums = [correct, len(fold) - correct, loss, float(self._data.dropped)]
        per_class = np.bincount(fold.labels, minlength=self._classes) * self._weight
        return np.concatenate([sums, per_class])

    def _noised(self, values: Reals, share: float, unit: float) -> Counts:
        return noised_integers(values, math.inf, share, unit, self._random)

    def _figures(self, sums: Reals) -> HeldOut:
        correct, wrong, loss, dropped = sums[:OF_HELD_OUT]
        largest = max(float(sums[OF_HELD_OUT:].max()), 0.0) / self._weight
        records = max(float(correct + wrong), 1.0)
        accuracy = min(max(float(correct) / records, 0.0), 1.0)
        noise = self._share * math.sqrt(len(self._job.silos))  # deviation of one summed count
        return HeldOut(
            records=round(max(float(correct + wrong), 0.0)),
            accuracy=accuracy,
            loss=min(max(float(loss) / self._weight / records, 0.0), 1.0) * self._max_loss,
            largest_class=min(largest / records, 1.0),
            dropped=max(round(float(dropped)), 0),
            # To first order, of the quotient of two noised counts.
            deviation=noise * math.hypot(accuracy, 1 - accuracy) / records,
        )


def _count_share(job: Job, plan: PrivacyPlan | None) -> float:
    """Deviation of a silo's noise on its round's count of unclipped gradients."""
    if plan is None or not plan.count_noise or job.privacy.noise == "none":
        return 0.0
    whole = plan.count_noise * math.sqrt(plan.steps_per_round)
    if job.privacy.noise == "shared":
        return share_deviation(whole, len(job.silos), job.privacy.colluders)
    return whole

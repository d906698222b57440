"""Held-out figures of classes: a silo's counts, and the figures from their sums over all silos.

Counts carry noise if the job gives held-out records a separate budget
(`blindsum.platform.privacy.plan.metrics_plan`). The noise is Gaussian and rounded to a unit of
1/UNITS of a silo's share, as `blindsum.platform.privacy.shared_noise` explains. Otherwise counts
are exact, and outputs say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.elsewhere import HeldOutElsewhere
from blindsum.platform.evaluation.figures import OF_CLASSES, HeldOut
from blindsum.platform.evaluation.kept_outputs import KeptOutputs
from blindsum.platform.job.labels_section import Target
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import HELD_OUT_WEIGHT, metrics_plan
from blindsum.platform.privacy.shared_noise import noised_integers
from blindsum.platform.training.losses import classification
from blindsum.platform.training.models import get_trainable

LOSS_UNIT = 2.0**-10
"""One integer unit of an exact sum of losses, in nats."""

MAX_LOSS = 32.0
"""The greatest loss of a record, in nats. Larger losses are cut, so that sums stay bounded."""

UNITS = 256
"""The number of integer units in one deviation of a silo's share of the noise."""

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def greatest_loss(job: Job, target: Target) -> float:
    """Return the loss at which a record's loss is cut, in nats. Under noise it is twice the loss of
    guessing, and counts at most one."""
    return 2 * math.log(len(target.classes)) if metrics_plan(job) else MAX_LOSS


def class_sums(evaluated: Iterable[tuple[Tensor, Tensor]], classes: int, max_loss: float) -> Reals:
    """Return sums over held-out records, float64 [3 + classes]: of those predicted right and wrong,
    of losses in nats, and of the records of each class.

    Args:
        evaluated: a model's outputs and the labels, as of `Fold.evaluated`.
        max_loss: a record's loss is cut there.
    """
    correct, loss, per_class = 0.0, 0.0, np.zeros(classes, np.int64)
    for outputs, labels in evaluated:
        # A model that overflowed to NaN counts as wrong with the greatest loss.
        losses = classification(outputs, labels).double()
        losses = losses.nan_to_num(max_loss, posinf=max_loss)
        loss += float(losses.clamp(0.0, max_loss).sum())
        correct += float((outputs.argmax(dim=1) == labels).sum())
        per_class += np.bincount(labels.numpy(), minlength=classes)
    return np.concatenate([[correct, per_class.sum() - correct, loss], per_class])


class ClassCounting:
    """Counts of correct and wrong records, their loss, dropped records, and records of each
    class."""

    def __init__(
        self,
        job: Job,
        target: Target,
        data: SiloData,
        random: np.random.Generator,
        elsewhere: HeldOutElsewhere | None = None,
    ) -> None:
        self._job, self._data, self._random = job, data, random
        self._elsewhere, self._outputs = elsewhere, KeptOutputs(data.test)
        self.plan = metrics_plan(job)
        self._classes = len(target.classes)
        self._share = (self.plan.share or 0.0) if self.plan else 0.0
        self._max_loss = greatest_loss(job, target)
        self._weight = HELD_OUT_WEIGHT if self.plan else 1.0  # of loss and classes
        self._units = np.full(OF_CLASSES + self._classes, self._share / UNITS or 1.0)
        if not self.plan:
            self._units[2] = LOSS_UNIT / MAX_LOSS

    def counts(self, model: nn.Module) -> Counts:
        """Return the silo's counts, int64 [OF_CLASSES + classes]."""
        found = self._sums(model)
        if self.plan:
            return noised_integers(found, math.inf, self._share, self._units[0], self._random)
        exact: Counts = np.rint(found / self._units).astype(np.int64)
        return exact

    def _sums(self, model: nn.Module) -> Reals:
        """Return sums over the silo's held-out records. One record changes them by at most
        HELD_OUT_SENSITIVITY in L2."""
        if self._elsewhere:
            found = self._elsewhere.class_sums(get_trainable(model))
        else:
            evaluated = self._outputs.evaluated(model)
            found = class_sums(evaluated, self._classes, self._max_loss)
        correct, wrong, loss = found[:3].tolist()
        loss = loss / self._max_loss * self._weight
        sums = [correct, wrong, loss, float(self._data.dropped)]
        return np.concatenate([sums, found[3:] * self._weight])

    def possible(self, counts: Counts, silos: int) -> bool:
        """Return whether honest silos' counts can have that sum. Noised counts can have any sum."""
        if self.plan:
            return True
        correct, wrong, loss, dropped = (int(c) for c in counts[:OF_CLASSES])
        records, most = correct + wrong, MAX_LOSS / LOSS_UNIT
        return (
            min(correct, wrong, loss, dropped, int(counts[OF_CLASSES:].min())) >= 0
            and int(counts[OF_CLASSES:].sum()) == records
            and loss <= records * most + silos
        )

    def figures(self, counts: Counts, silos: int) -> HeldOut:
        """Return the consortium's figures from counts summed over that many silos."""
        sums = counts * self._units
        correct, wrong, loss, dropped = sums[:OF_CLASSES]
        largest = max(float(sums[OF_CLASSES:].max()), 0.0) / self._weight
        records = max(float(correct + wrong), 1.0)
        accuracy = min(max(float(correct) / records, 0.0), 1.0)
        mean_loss = min(max(float(loss) / self._weight / records, 0.0), 1.0) * self._max_loss
        if not self.plan and mean_loss >= MAX_LOSS * (1 - 2**-10):
            accuracy = mean_loss = math.nan  # nothing but what overflowed or was cut
        noise = self._share * math.sqrt(silos)  # deviation of one summed count
        return HeldOut(
            records=round(max(float(correct + wrong), 0.0)),
            accuracy=accuracy,
            loss=mean_loss,
            largest_class=min(largest / records, 1.0),
            dropped=max(round(float(dropped)), 0),
            # The first-order deviation of the quotient of two noised counts.
            deviation=noise * math.hypot(accuracy, 1 - accuracy) / records,
        )

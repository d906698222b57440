"""How the attacks use a job's labels: classes, or the labels of shared tasks.

Every attack needs a loss to take gradients of. Some need more: labels recovered from a gradient, a
class to imitate, or a score of how well a model knows a record. Jobs with classes and jobs with
tasks provide these differently: a binary task has two classes, a numeric task has only its loss.

Legend: K models, N records, V views of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from torch import Tensor

from blindsum.platform.data.records import Labels
from blindsum.platform.evaluation.scores import by_task
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.training.losses import MultiTask, RecordLoss, classification, record_loss

Reals = npt.NDArray[np.float64]

WHOLE = ""
"""The view of a whole record: the loss that training minimises."""

MOST_TASKS = 20
"""How many tasks are attacked one by one: those with the most labels."""

SURE = 1e-12
"""Lower limit of losses: more certainty adds no information, and its log odds are infinite."""

SPOILT = 2.0
"""How far a canary's number is from the true one, in units of the task's scale."""


@dataclass(frozen=True)
class Observed:
    """Losses and statistics of K models on N records, in V views.

    `losses` float64 [V, K, N], nats, NaN where a record has no label in that view; `statistics`, of
    the same shape, go into the likelihood ratios: close to Gaussian over models.
    """

    losses: Reals
    statistics: Reals


class Labelling(Protocol):
    """Interface through which the attacks use a job's labels.

    `loss` is the job's loss; `bounded`: whether its gradient in the outputs is bounded;
    `has_classes`: whether `classes` are the job's own; `score_name` names `score`, and `least` is
    its lower limit.
    """

    loss: RecordLoss
    bounded: bool
    has_classes: bool
    score_name: str
    least: float

    def classes(self, labels: Labels) -> npt.NDArray[np.int64]:
        """Return the classes that attackers sort records by, int64 [N]; -1 without a label."""

    def of_class(self, wanted: int, records: int) -> Tensor:
        """Return labels for `records` made-up records of class `wanted`."""

    def taken(self, outputs: Tensor) -> Tensor:
        """Return the class a model assigns to each record, int64 [N], from outputs [N, ...]."""

    def from_bias(self, made_up: Tensor, bias: Tensor, records: int) -> Tensor:
        """Estimate the labels of the attacked records from the last bias's gradient.

        Args:
            made_up: the model's outputs on records that the attacker made up, [M, outputs]; they
                stand in for its outputs on the attacked records.
            bias: gradient of the last bias, [outputs], a sum over `records`.
        """

    def views(self, labels: Labels) -> tuple[str, ...]:
        """Return WHOLE and the names of the tasks that are attacked one by one."""

    def observe(self, outputs: Reals, labels: Labels, views: tuple[str, ...]) -> Observed:
        """Return losses and statistics, from outputs float64 [K, N, outputs] and N labels."""

    def spoilt(self, labels: Labels, random: np.random.Generator) -> Labels:
        """Return wrong labels for those records."""

    def score(self, outputs: Tensor, labels: Labels) -> float | None:
        """Return a model's score on held-out records; None if too few are labelled."""


def labelling(job: Job) -> Labelling:
    """Return the `Labelling` for a job.

    Raises:
        ModelError: the job's own loss cannot be used.
    """
    target, loss = job.data.target, record_loss(job, {})
    found: Classes | OfTasks
    if target:
        weights = target.weights if target.class_weights else None
        found = Classes(len(target.classes), weights, loss)
    else:
        found = OfTasks(job.data.tasks or {}, loss)
    found.bounded = found.bounded and job.training.loss is None
    return found


def log_odds(losses: Reals) -> Reals:
    """Return log(p / (1 - p)) of p = exp(-loss), for any loss in nats.

    This is the logit-scaled confidence of Carlini et al., IEEE S&P 2022, section 4.
    """
    floored = np.maximum(losses, SURE)
    scaled: Reals = -floored - np.log(-np.expm1(-floored))
    return scaled


class Classes:
    """Labels in one column of classes."""

    has_classes, score_name, least = True, "accuracy", 0.0

    def __init__(
        self,
        outputs: int,
        weights: Sequence[float] | None = None,
        loss: RecordLoss = classification,
    ) -> None:
        self._outputs, self.bounded = outputs, True
        self._weights = torch.tensor(weights or [1.0] * outputs, dtype=torch.float64)
        self.loss = loss

    def classes(self, labels: Labels) -> npt.NDArray[np.int64]:
        return labels

    def of_class(self, wanted: int, records: int) -> Tensor:
        return torch.full((records,), wanted)

    def taken(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def from_bias(self, made_up: Tensor, bias: Tensor, records: int) -> Tensor:
        """Return int64 [records], ascending (Wainakh et al., PoPETs 2022).

        The bias's gradient is the sum of predicted minus true classes, each multiplied by its
        class's weight. With n records of a class, weight w and mean prediction p, it is p W - n w,
        in which W is the sum of all n w; that all n add up to `records` gives W.
        """
        weights = self._weights.to(bias.dtype)
        predicted = torch.softmax(made_up, 1).mean(0)
        whole = (records + (bias / weights).sum()) / (predicted / weights).sum()
        counts = (predicted * whole - bias) / weights
        labels = []
        for _ in range(records):
            labels.append(int(counts.argmax()))
            counts[labels[-1]] -= 1
        return torch.tensor(sorted(labels))

    def views(self, labels: Labels) -> tuple[str, ...]:
        return (WHOLE,)

    def observe(self, outputs: Reals, labels: Labels, views: tuple[str, ...]) -> Observed:
        index = np.broadcast_to(labels[None, :, None], (*outputs.shape[:2], 1))
        true = np.take_along_axis(outputs, index, 2)[..., 0]
        others = outputs.copy()
        np.put_along_axis(others, index, -np.inf, 2)
        scaled = true - logsumexp(others, axis=2)
        return Observed(np.logaddexp(0.0, -scaled)[None], scaled[None])

    def spoilt(self, labels: Labels, random: np.random.Generator) -> Labels:
        wrong: Labels = (labels + random.integers(1, self._outputs, len(labels))) % self._outputs
        return wrong

    def score(self, outputs: Tensor, labels: Labels) -> float | None:
        return float((outputs.argmax(1).numpy() == labels).mean())


class OfTasks:
    """Labels in many columns with gaps.

    The classes are those of the first binary task. If there is none, they are numbers above and
    below the first task's centre, which is public; those are not classes of the job.
    """

    def __init__(self, tasks: Tasks, loss: RecordLoss | None = None) -> None:
        self._tasks, self._names, self._usual = tasks, list(tasks), MultiTask(tasks)
        self.loss: RecordLoss = loss or self._usual
        binary = [i for i, task in enumerate(tasks.values()) if task.kind == "binary"]
        self.bounded, self.has_classes = len(binary) == len(tasks), bool(binary)
        self._sorted_by = binary[0] if binary else 0
        self._binary = np.isin(np.arange(len(tasks)), binary)
        self._weights = np.array([task.weight for task in tasks.values()])
        self._of_positives = [task.positive_weight for task in tasks.values()]
        self.score_name = "mean AUROC" if binary else "mean R2"
        self.least = 0.0 if binary else -1.0

    def classes(self, labels: Labels) -> npt.NDArray[np.int64]:
        values = labels[:, 0, self._sorted_by]
        return np.where(np.isnan(values), -1, values > 0).astype(np.int64)

    def of_class(self, wanted: int, records: int) -> Tensor:
        labels = torch.zeros(records, 2, len(self._tasks))
        labels[:, 0] = torch.nan
        labels[:, 0, self._sorted_by] = float(wanted)
        return labels

    def taken(self, outputs: Tensor) -> Tensor:
        return (outputs[:, self._sorted_by] > 0).long()

    def from_bias(self, made_up: Tensor, bias: Tensor, records: int) -> Tensor:
        """Return float32 [records, 2, tasks].

        A task's gradient, divided by its weight, is the sum of predicted minus true labels; if it
        is zero, no record was labelled. It does not show which of several records has which label.
        """
        labels = torch.zeros(records, 2, len(self._tasks))
        for i, binary in enumerate(self._binary):
            apart = float(bias[i]) / float(self._weights[i])
            if apart == 0.0:
                labels[:, 0, i] = torch.nan
            elif not binary:
                labels[:, 0, i] = float(made_up[:, i].mean()) - apart / records
            elif records == 1:
                labels[:, 0, i] = float(apart < 0)
            else:
                predicted = float(torch.sigmoid(made_up[:, i]).mean())
                each = predicted + self._of_positives[i] * (1 - predicted)
                positive = (records * predicted - apart) / each
                labels[: round(min(max(positive, 0.0), records)), 0, i] = 1.0
        return labels

    def views(self, labels: Labels) -> tuple[str, ...]:
        if len(self._tasks) == 1:
            return (WHOLE,)
        counts = (~np.isnan(labels[:, 0])).sum(0)
        most = np.sort(np.argsort(-counts, kind="stable")[:MOST_TASKS])
        return (WHOLE, *(self._names[i] for i in most if counts[i]))

    def observe(self, outputs: Reals, labels: Labels, views: tuple[str, ...]) -> Observed:
        found, statistics = [], []
        for view in views:
            if view == WHOLE and len(self._tasks) > 1:
                weights = (~np.isnan(labels[:, 0]) * self._weights).sum(1)
                losses = _losses(self._usual, outputs, labels) / np.maximum(weights, SURE)
                statistics.append(log_odds(losses))
            else:
                i = 0 if view == WHOLE else self._names.index(view)
                losses = self._of_one(outputs[..., i : i + 1], labels[:, :, i : i + 1], i)
                statistics.append(self._statistic(outputs[..., i], labels[:, :, i], i))
            found.append(losses)
        return Observed(np.stack(found), np.stack(statistics))

    def _of_one(self, outputs: Reals, labels: Labels, i: int) -> Reals:
        """Return one task's own loss, float64 [K, N], NaN where it is not labelled."""
        name = self._names[i]
        alone = MultiTask(
            {name: self._tasks[name].model_copy(update={"weight": 1.0, "positive_weight": 1.0})}
        )
        return np.where(np.isnan(labels[:, 0, 0]), np.nan, _losses(alone, outputs, labels))

    def _statistic(self, outputs: Reals, labels: Labels, i: int) -> Reals:
        """Return the logit towards the label of a binary task, or a number's signed error."""
        known = labels[:, 0]
        found: Reals = outputs * (2 * known - 1) if self._binary[i] else outputs - known
        return found

    def spoilt(self, labels: Labels, random: np.random.Generator) -> Labels:
        wrong, values = labels.copy(), labels[:, 0]
        off = SPOILT * random.choice([-1.0, 1.0], values.shape)
        wrong[:, 0] = np.where(self._binary, 1 - values, values + off)
        wrong[:, 1] = 0.0
        return wrong

    def score(self, outputs: Tensor, labels: Labels) -> float | None:
        name = "auroc" if self.has_classes else "r2"
        figures = by_task(outputs.numpy(), labels, self._tasks)
        found = [max(one[name], self.least) for one in figures.values() if name in one]
        return float(np.mean(found)) if found else None


def _losses(loss: RecordLoss, outputs: Reals, labels: Labels) -> Reals:
    """Return each model's loss on each record, float64 [K, N], from outputs [K, N, ...]."""
    known = torch.from_numpy(np.ascontiguousarray(labels))
    return torch.stack([loss(model, known) for model in torch.from_numpy(outputs)]).numpy()

"""What an attacker makes of a job's labels: classes, or the tasks that all silos know.

Every attack needs a loss to take gradients of. Some need more: labels read off a gradient, a class to
imitate, a score that says how well a model knows a record. A job of classes and a job of tasks
answer those in their own way; a binary task is two classes, and a task that measures a number has
its loss.

Legend: K models, N records, V views of a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from torch import Tensor

from blindsum.platform.data.labels import Labels
from blindsum.platform.evaluation.tasks import by_task
from blindsum.platform.job.data_section import DataSection, Tasks
from blindsum.platform.training.losses import MultiTask, RecordLoss, classification

Reals = npt.NDArray[np.float64]

WHOLE = ""
"""The view of a whole record, as its loss is trained on."""

MOST_TASKS = 20
"""So many tasks are looked at one by one: those with the most labels."""

SURE = 1e-12
"""Losses are floored here: a greater certainty tells nothing more, and its log odds are infinite."""

SPOILT = 2.0
"""How many scales a canary's number is off."""


@dataclass(frozen=True)
class Observed:
    """What K models say of N records, in V views.

    `losses` float64 [V, K, N], nats, NaN where a record has no label in that view; `statistics`, of
    the same shape, are what likelihood ratios are taken of: close to Gaussian over models.
    """

    losses: Reals
    statistics: Reals


class Labelling(Protocol):
    """What the attacks ask of a job's labels.

    `loss` is the job's; `bounded` whether its gradient in the outputs is; `has_classes` whether `classes`
    are the job's own; `score_name` what `score` is, and `least` the least it can be.
    """

    loss: RecordLoss
    bounded: bool
    has_classes: bool
    score_name: str
    least: float

    def classes(self, labels: Labels) -> npt.NDArray[np.int64]:
        """Int64 [N]: what an attacker sorts records by; -1 where a record has no label for it."""

    def of_class(self, wanted: int, records: int) -> Tensor:
        """Labels of so many made-up records of that class."""

    def taken(self, outputs: Tensor) -> Tensor:
        """Which class a model takes records for, int64 [N], of outputs [N, ...]."""

    def from_bias(self, made_up: Tensor, bias: Tensor, records: int) -> Tensor:
        """The labels behind the last bias's gradient.

        Args:
            made_up: what the model says of records that the attacker made up, [M, outputs]; it stands
                for what the model said of those attacked.
            bias: gradient of the last bias, [outputs], a sum over `records`.
        """

    def views(self, labels: Labels) -> tuple[str, ...]:
        """WHOLE, and the tasks that are looked at one by one."""

    def observe(self, outputs: Reals, labels: Labels, views: tuple[str, ...]) -> Observed:
        """Of outputs float64 [K, N, outputs] and the labels of N records."""

    def spoilt(self, labels: Labels, random: np.random.Generator) -> Labels:
        """Wrong labels for those records."""

    def score(self, outputs: Tensor, labels: Labels) -> float | None:
        """How good a model is on held-out records; None where too few are labelled."""


def labelling(contract: DataSection) -> Labelling:
    """How that job's labels are read."""
    if contract.target:
        return Classes(len(contract.target.classes))
    return OfTasks(contract.tasks or {})


def log_odds(losses: Reals) -> Reals:
    """log(p / (1 - p)) of the probability p = exp(-loss): the logit-scaled confidence of Carlini et
    al., IEEE S&P 2022, section 4, for any loss in nats."""
    floored = np.maximum(losses, SURE)
    scaled: Reals = -floored - np.log(-np.expm1(-floored))
    return scaled


class Classes:
    """One column of classes."""

    bounded, has_classes, score_name, least = True, True, "accuracy", 0.0

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs
        self.loss: RecordLoss = classification

    def classes(self, labels: Labels) -> npt.NDArray[np.int64]:
        return labels

    def of_class(self, wanted: int, records: int) -> Tensor:
        return torch.full((records,), wanted)

    def taken(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def from_bias(self, made_up: Tensor, bias: Tensor, records: int) -> Tensor:
        """Int64 [records], ascending (Wainakh et al., PoPETs 2022): the bias's gradient is the sum of
        predicted minus true classes."""
        counts = records * torch.softmax(made_up, 1).mean(0) - bias
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
    """Many columns with gaps. The classes are those of the first binary task; where there is none, a
    number above or below its centre: public, and no class of the job's."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks, self._names = tasks, list(tasks)
        self.loss: RecordLoss = MultiTask(tasks)
        binary = [i for i, task in enumerate(tasks.values()) if task.kind == "binary"]
        self.bounded, self.has_classes = len(binary) == len(tasks), bool(binary)
        self._sorted_by = binary[0] if binary else 0
        self._binary = np.isin(np.arange(len(tasks)), binary)
        self._weights = np.array([task.weight for task in tasks.values()])
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
        """Float32 [records, 2, tasks]. A task's gradient is the sum of predicted minus true labels, by
        its weight; where it is nothing, nothing was labelled. Which of several records has which
        label does not show."""
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
                positive = records * float(torch.sigmoid(made_up[:, i]).mean()) - apart
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
                losses = _losses(self.loss, outputs, labels) / np.maximum(weights, SURE)
                statistics.append(log_odds(losses))
            else:
                i = 0 if view == WHOLE else self._names.index(view)
                losses = self._of_one(outputs[..., i : i + 1], labels[:, :, i : i + 1], i)
                statistics.append(self._statistic(outputs[..., i], labels[:, :, i], i))
            found.append(losses)
        return Observed(np.stack(found), np.stack(statistics))

    def _of_one(self, outputs: Reals, labels: Labels, i: int) -> Reals:
        """One task's own loss, float64 [K, N], NaN where it is not labelled."""
        name = self._names[i]
        alone = MultiTask({name: self._tasks[name].model_copy(update={"weight": 1.0})})
        return np.where(np.isnan(labels[:, 0, 0]), np.nan, _losses(alone, outputs, labels))

    def _statistic(self, outputs: Reals, labels: Labels, i: int) -> Reals:
        """A logit towards the label; or what a number is off by, with its sign."""
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
    """Float64 [K, N] of outputs [K, N, ...]: every model's loss on every record."""
    known = torch.from_numpy(np.ascontiguousarray(labels))
    return torch.stack([loss(model, known) for model in torch.from_numpy(outputs)]).numpy()

"""Held-out figures of tasks: each silo has its own by task, and the consortium only their means.

A silo sends sums of its figures (`blindsum.platform.evaluation.scores`) over the shared tasks,
their number, their positive and negative labels, and the variance of the sums. R2 is cut at -1 in
them. It sends nothing about its private tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from blindsum.platform.data.enough import LEAST
from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.elsewhere import HeldOutElsewhere
from blindsum.platform.evaluation.figures import CLASSIFIED, MEASURED, TASK_COUNTS, TaskFigures
from blindsum.platform.evaluation.influence import WORST_R2, Reals
from blindsum.platform.evaluation.kept_outputs import KeptOutputs
from blindsum.platform.evaluation.scores import MOST, Answers, Figures, Scored, scores
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.training.losses import MultiTask
from blindsum.platform.training.models import get_trainable

UNIT = 2.0**-16
"""The size of one integer unit of a summed figure."""

VARIANCE_UNIT = 2.0**-28
"""The size of one integer unit of a summed variance."""

MOST_VARIANCE = 2**36
"""The greatest variance of a silo's sum, in units: 2,048 tasks that always err together, each with
five records of a class, stay below it."""


def answers_of(evaluated: Iterable[tuple[Tensor, Tensor]], shared: Tasks) -> tuple[Answers, float]:
    """Return a model's answers for held-out records, and the sum of their losses in the shared
    tasks, each cut at the greatest that counts.

    Args:
        evaluated: the model's outputs and the labels, as of `Fold.evaluated`.
    """
    many, most = len(shared), _greatest_loss(shared)
    answers, total, loss = Answers(), 0.0, MultiTask(shared)
    for outputs, labels in evaluated:
        answers.add(outputs.numpy(), labels.numpy())
        losses = loss(outputs[:, :many], labels[:, :, :many]).double()
        total += float(losses.nan_to_num(most, posinf=most).clamp(0.0, most).sum())
    return answers, total


def _greatest_loss(shared: Tasks) -> float:
    return MOST * max(len(shared), 1)


class TaskCounting:
    """One silo's figures by task, and the counts that it sends: sums over the shared tasks.

    Args:
        own: the silo's private tasks, whose labels follow the shared ones. Their figures never
            leave the silo.
    """

    plan = None  # figures of tasks are never noised: see `Job`

    def __init__(
        self,
        shared: Tasks,
        data: SiloData,
        own: Tasks | None = None,
        elsewhere: HeldOutElsewhere | None = None,
    ) -> None:
        self._shared, self._data, self._elsewhere = shared, data, elsewhere
        self._outputs = KeptOutputs(data.test)
        self._tasks = {**shared, **(own or {})}
        self.latest: dict[str, Figures] = {}

    def counts(self, model: nn.Module) -> npt.NDArray[np.int64]:
        """Return the counts of a model, int64 [TASK_COUNTS]. Sets `latest` to the figures of every
        task that has enough labels."""
        if self._elsewhere:
            answers, loss = self._elsewhere.answers(get_trainable(model))
        else:
            answers, loss = answers_of(self._outputs.evaluated(model), self._shared)
        self.latest, sums = {}, _Sums(len(answers), self._data.dropped)
        for name, records, one in scores(answers, self._tasks):
            self.latest[name] = one.reported
            if name in self._shared:
                sums.add(records, one)
        return sums.counts(loss)

    @property
    def _most(self) -> float:
        """The greatest loss of a record."""
        return _greatest_loss(self._shared)

    def possible(self, counts: npt.NDArray[np.int64], silos: int) -> bool:
        """Return whether honest silos' counts can have that sum."""
        of = {name: int(count) for name, count in zip(TASK_COUNTS, counts, strict=True)}
        labels, tasks = of["positives"] + of["negatives"], silos * len(self._shared)
        binary, measured = of["binary_tasks"], of["regression_tasks"]
        signed = {*CLASSIFIED, *MEASURED}
        return (
            min(count for name, count in of.items() if name not in signed) >= 0
            and of["loss"] <= (of["records"] + silos) * int(self._most / UNIT)
            and binary + measured <= tasks
            and of["binary_diverged"] <= binary
            and of["regression_diverged"] <= measured
            and min(of["positives"], of["negatives"]) >= LEAST * binary
            and labels <= of["records"] * len(self._shared)
            and all(-silos <= of[name] <= binary * int(1 / UNIT) + tasks for name in CLASSIFIED)
            and all(abs(of[name]) <= measured * int(MOST / UNIT) + tasks for name in MEASURED)
            and max(of[name] for name in of if name.endswith("_variance")) <= silos * MOST_VARIANCE
        )

    def figures(self, counts: npt.NDArray[np.int64], silos: int) -> TaskFigures:
        """Return the consortium's figures from summed counts. `silos` is not used here."""
        of = {name: int(count) for name, count in zip(TASK_COUNTS, counts, strict=True)}

        def mean(name: str, kind: str) -> float:
            pairs = of[f"{kind}_tasks"]
            lost = name != "rmse" and pairs == of[f"{kind}_diverged"]
            return of[name] * UNIT / pairs if pairs and not lost else math.nan

        def variance(name: str, kind: str) -> float:
            """Of a mean over pairs. Silos are independent, so that their variances add up."""
            pairs = of[f"{kind}_tasks"]
            return of[f"{name}_variance"] * VARIANCE_UNIT / pairs**2 if pairs else math.nan

        loss = of["loss"] * UNIT / of["records"] if of["records"] else math.nan
        auroc, auprc, at_rate, calibration = (mean(name, "binary") for name in CLASSIFIED)
        r2, rmse = (mean(name, "regression") for name in MEASURED)
        return TaskFigures(
            records=of["records"],
            loss=loss if loss < self._most * (1 - 2**-10) else math.nan,
            dropped=of["dropped"],
            binary_tasks=of["binary_tasks"],
            auroc=auroc,
            auprc=auprc,
            auprc_at_fixed_rate=at_rate,
            calibration_error=calibration,
            binary_diverged=of["binary_diverged"],
            positives=of["positives"],
            negatives=of["negatives"],
            auroc_variance=variance("auroc", "binary"),
            auprc_variance=variance("auprc", "binary"),
            regression_tasks=of["regression_tasks"],
            r2=r2,
            rmse=rmse if rmse < MOST * (1 - 2**-10) else math.nan,
            regression_diverged=of["regression_diverged"],
            r2_variance=variance("r2", "regression"),
        )


class _Sums:
    """The sums of one silo over its shared tasks, task by task: there may be thousands."""

    def __init__(self, records: int, dropped: int) -> None:
        self._sums = dict.fromkeys(TASK_COUNTS, 0.0) | {"records": records, "dropped": dropped}
        self._influence: dict[str, Reals] = defaultdict(lambda: np.zeros(records))

    def add(self, records: npt.NDArray[np.int64], one: Scored) -> None:
        """Add a task, with the numbers of the records that have a label of it."""
        kind, names = ("regression", MEASURED) if "r2" in one.figures else ("binary", CLASSIFIED)
        self._sums[f"{kind}_tasks"] += 1
        self._sums[f"{kind}_diverged"] += one.diverged
        for name in names:
            self._sums[name] += min(max(one.figures[name], WORST_R2), MOST) / UNIT
        for name in ("positives", "negatives"):
            self._sums[name] += one.figures.get(name, 0)
        for name, of_records in one.influence.items():
            # A record's influences on all tasks are added before they are squared: tasks are
            # measured on the same records.
            self._influence[name][records] += of_records
            self._sums[f"{name}_variance"] += one.more[name] / VARIANCE_UNIT

    def counts(self, loss: float) -> npt.NDArray[np.int64]:
        """Return the counts that the silo sends, int64 [TASK_COUNTS]."""
        found = self._sums | {"loss": loss / UNIT}
        for name, of_records in self._influence.items():
            variance = (
                found[f"{name}_variance"] + float(np.square(of_records).sum()) / VARIANCE_UNIT
            )
            found[f"{name}_variance"] = min(variance, MOST_VARIANCE)
        return np.rint([found[name] for name in TASK_COUNTS]).astype(np.int64)

"""Held-out figures of tasks: each silo has its own by task, and the consortium only their means.

A silo sends sums of its figures (`blindsum.platform.evaluation.scores`) over the shared tasks,
their number, their positive and negative labels, and the variance of the sums. R2 is cut at -1 in
them, and an enrichment is sent as its product with the share at whose top it is. The tasks of each
group are summed once more by themselves. It sends nothing about its private tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from blindsum.platform.data.enough import LEAST
from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.elsewhere import HeldOutElsewhere
from blindsum.platform.evaluation.figures import (
    CLASSIFIED,
    COVERED,
    MEASURED,
    RANKED,
    TASK_COUNTS,
    TaskFigures,
)
from blindsum.platform.evaluation.influence import WORST_R2, Reals
from blindsum.platform.evaluation.intervals import TOPS
from blindsum.platform.evaluation.kept_outputs import KeptOutputs
from blindsum.platform.evaluation.pair_figures import GROUP_COUNTS, OF_GROUP, PairFigures
from blindsum.platform.evaluation.scores import MOST, Answers, Figures, Scored, scores
from blindsum.platform.job.labels_section import Tasks, task_groups
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
        self._groups = task_groups(shared)
        self.latest: dict[str, Figures] = {}

    def counts(self, model: nn.Module) -> npt.NDArray[np.int64]:
        """Return the counts of a model, int64 [TASK_COUNTS + groups * GROUP_COUNTS]. Sets `latest`
        to the figures of every task that has enough labels."""
        if self._elsewhere:
            answers, loss = self._elsewhere.answers(get_trainable(model))
        else:
            answers, loss = answers_of(self._outputs.evaluated(model), self._shared)
        many = len(answers)
        fixed = {"records": many, "dropped": self._data.dropped, "loss": loss / UNIT}
        self.latest, sums = {}, _Sums(TASK_COUNTS, many, fixed)
        of_groups = {group: _Sums(GROUP_COUNTS, many) for group in self._groups}
        for name, records, one in scores(answers, self._tasks):
            self.latest[name] = one.reported
            if name in self._shared:
                sums.add(records, one)
                if group := self._shared[name].group:
                    of_groups[group].add(records, one)
        return np.concatenate([one.counts() for one in (sums, *of_groups.values())])

    @property
    def _most(self) -> float:
        """The greatest loss of a record."""
        return _greatest_loss(self._shared)

    def possible(self, counts: npt.NDArray[np.int64], silos: int) -> bool:
        """Return whether honest silos' counts can have that sum."""
        of, groups = self._split(counts)
        return (
            min(of["records"], of["dropped"], of["loss"]) >= 0
            and of["loss"] <= (of["records"] + silos) * int(self._most / UNIT)
            and all(of[name] <= of[name.replace("covered_", "")] for name in COVERED)
            and _possible(of, of["records"], self._shared, silos)
            and all(_possible(one, of["records"], self._in(g), silos) for g, one in groups.items())
        )

    def _in(self, group: str) -> Tasks:
        return {name: task for name, task in self._shared.items() if task.group == group}

    def _split(self, counts: npt.NDArray[np.int64]) -> tuple[_Counts, dict[str, _Counts]]:
        """Return the counts by name: of all tasks, and of each group."""
        first, size = len(TASK_COUNTS), len(GROUP_COUNTS)
        parts = [counts[first + i * size :][:size] for i in range(len(self._groups))]
        of_groups = {
            group: _named(GROUP_COUNTS, part)
            for group, part in zip(self._groups, parts, strict=True)
        }
        return _named(TASK_COUNTS, counts[:first]), of_groups

    def figures(self, counts: npt.NDArray[np.int64], silos: int) -> TaskFigures:
        """Return the consortium's figures from summed counts. `silos` is not used here."""
        of, groups = self._split(counts)
        loss = of["loss"] * UNIT / of["records"] if of["records"] else math.nan
        means = {name: _mean(of, name, "binary") for name in CLASSIFIED}
        means |= {name: means[name] / top for name, top in TOPS.items()}
        means["auprc_at_fixed_rate"] = means.pop("auprc_at_0.1")
        rmse = _mean(of, "rmse", "regression")
        return TaskFigures(
            **_pair_figures(of)
            | means
            | {f"{name}_variance": _variance(of, name, "binary") for name in RANKED},
            **{name: of[name] for name in COVERED},
            records=of["records"],
            loss=loss if loss < self._most * (1 - 2**-10) else math.nan,
            dropped=of["dropped"],
            rmse=rmse if rmse < MOST * (1 - 2**-10) else math.nan,
            groups={name: PairFigures(**_pair_figures(one)) for name, one in groups.items()},
        )


_Counts = dict[str, int]


def _named(names: Sequence[str], counts: npt.NDArray[np.int64]) -> _Counts:
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _possible(of: _Counts, records: int, tasks: Tasks, silos: int) -> bool:
    """Return whether honest silos' counts of those tasks can have that sum.

    Args:
        records: the number of held-out records of all silos.
    """
    labels, pairs = of["positives"] + of["negatives"], silos * len(tasks)
    binary, measured = of["binary_tasks"], of["regression_tasks"]
    shares = [of[name] for name in CLASSIFIED if name in of]
    errors = [of[name] for name in MEASURED if name in of]
    variances = [count for name, count in of.items() if name.endswith("_variance")]
    signed = {*CLASSIFIED, *MEASURED}
    return (
        min(count for name, count in of.items() if name not in signed) >= 0
        and binary + measured <= pairs
        and of["binary_diverged"] <= binary
        and of["regression_diverged"] <= measured
        and min(of["positives"], of["negatives"]) >= LEAST * binary
        and labels <= records * len(tasks)
        and all(-silos <= share <= binary * int(1 / UNIT) + pairs for share in shares)
        and all(abs(error) <= measured * int(MOST / UNIT) + pairs for error in errors)
        and max(variances) <= silos * MOST_VARIANCE
    )


def _pair_figures(of: _Counts) -> dict[str, Any]:
    """Return the arguments of `PairFigures`."""
    whole = [name for name in GROUP_COUNTS if name.endswith(("tasks", "diverged", "tives"))]
    return {
        **{name: of[name] for name in whole},
        **{name: _mean(of, name, "binary") for name in OF_GROUP},
        **{f"{name}_variance": _variance(of, name, "binary") for name in OF_GROUP},
        "r2": _mean(of, "r2", "regression"),
        "r2_variance": _variance(of, "r2", "regression"),
    }


def _mean(of: _Counts, name: str, kind: str) -> float:
    pairs = of[f"{kind}_tasks"]
    lost = name != "rmse" and pairs == of[f"{kind}_diverged"]
    return of[name] * UNIT / pairs if pairs and not lost else math.nan


def _variance(of: _Counts, name: str, kind: str) -> float:
    """Return the variance of a mean over pairs. Silos are independent, so that theirs add up."""
    pairs = of[f"{kind}_tasks"]
    return of[f"{name}_variance"] * VARIANCE_UNIT / pairs**2 if pairs else math.nan


class _Sums:
    """The sums of one silo over its shared tasks, task by task: there may be thousands.

    Args:
        names: the counts, in order.
        fixed: counts of records.
    """

    def __init__(
        self, names: Sequence[str], records: int, fixed: Mapping[str, float] | None = None
    ) -> None:
        self._names, self._sums = names, dict.fromkeys(names, 0.0) | dict(fixed or {})
        self._influence: dict[str, Reals] = defaultdict(lambda: np.zeros(records))

    def add(self, records: npt.NDArray[np.int64], one: Scored) -> None:
        """Add a task, with the numbers of the records that have a label of it."""
        kind, names = ("regression", MEASURED) if "r2" in one.figures else ("binary", CLASSIFIED)
        self._add(f"{kind}_tasks", 1)
        self._add(f"{kind}_diverged", one.diverged)
        for name in names:
            self._add(name, _bounded(name, one.figures[name]) / UNIT)
        for name in ("positives", "negatives", *COVERED):
            self._add(name, one.figures.get(name, 0))
        for name, of_records in one.influence.items():
            if f"{name}_variance" not in self._sums:
                continue
            # A record's influences on all tasks are added before they are squared: tasks are
            # measured on the same records.
            self._influence[name][records] += of_records
            self._add(f"{name}_variance", one.more[name] / VARIANCE_UNIT)

    def _add(self, name: str, value: float) -> None:
        if name in self._sums:
            self._sums[name] += value

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the counts that the silo sends, int64 [names]."""
        found = dict(self._sums)
        for name, of_records in self._influence.items():
            variance = (
                found[f"{name}_variance"] + float(np.square(of_records).sum()) / VARIANCE_UNIT
            )
            found[f"{name}_variance"] = min(variance, MOST_VARIANCE)
        return np.rint([found[name] for name in self._names]).astype(np.int64)


def _bounded(name: str, figure: float) -> float:
    """Return a figure as it is summed."""
    return min(max(figure * TOPS.get(name, 1.0), WORST_R2), MOST)

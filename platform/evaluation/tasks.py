"""Held-out figures of tasks: each silo has its own by task, and the consortium only their means.

    AUROC            area under the ROC curve
    AUPRC            average precision
    AUPRC at 0.1     the same if the share of positives were 0.1 (Siblini, Frery, He-Guelton, Oble
                     and Wang, IDA 2020), so that tasks can be compared
    calibration      expected calibration error, ten bins (Guo, Pleiss, Sun and Weinberger,
                     ICML 2017)
    R2, RMSE         for regression, in scaled units, over exactly measured values

A silo counts a task if it has LEAST held-out records of each class, or LEAST values. It sends sums
over the shared tasks and their number; R2 is cut at -1 in them. It sends nothing about its private
tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.figures import CLASSIFIED, MEASURED, TaskFigures
from blindsum.platform.job.labels_section import Task, Tasks
from blindsum.platform.training.losses import MultiTask

LEAST = 5
REFERENCE = 0.1
UNIT = 2.0**-16
"""The size of one integer unit of a summed figure."""

MOST = 64.0
"""Greatest figure, and greatest loss of a record: larger ones are cut, so that sums are bounded."""

Figures = dict[str, float]
Reals = npt.NDArray[np.float64]


class TaskCounting:
    """One silo's figures by task, and the counts that it sends: sums over the shared tasks.

    Args:
        own: the silo's private tasks, whose labels follow the shared ones. Their figures never
            leave the silo.
    """

    plan = None  # figures of tasks are never noised: see `Job`

    def __init__(self, shared: Tasks, data: SiloData, own: Tasks | None = None) -> None:
        self._shared, self._data = shared, data
        self._tasks = {**shared, **(own or {})}
        self._loss = MultiTask(shared)
        self.latest: dict[str, Figures] = {}

    def counts(self, model: nn.Module) -> npt.NDArray[np.int64]:
        """Return the counts of a model, int64 [OF_TASKS]. Sets `latest` to the figures of every
        task that has enough labels."""
        labels = self._data.test.labels
        outputs = self._data.test.outputs(model)
        self.latest = by_task(outputs.numpy(), labels, self._tasks)
        many = len(self._shared)
        losses = self._loss(outputs[:, :many], torch.from_numpy(labels[:, :, :many])).double()
        most = MOST * max(many, 1)
        losses = losses.nan_to_num(most, posinf=most).clamp(0.0, most)
        sums = [len(labels), float(losses.sum()) / UNIT, self._data.dropped]
        found = [figures for name, figures in self.latest.items() if name in self._shared]
        for names in (CLASSIFIED, MEASURED):
            of_kind = [figures for figures in found if names[0] in figures]
            sums.append(len(of_kind))
            for name in names:
                cut = [min(max(figures[name], -1.0), MOST) for figures in of_kind]
                sums.append(sum(cut) / UNIT)
        return np.rint(sums).astype(np.int64)

    def possible(self, counts: npt.NDArray[np.int64], silos: int) -> bool:
        """Return whether honest silos' counts can have that sum."""
        records, loss, dropped, binary, *rest = (int(c) for c in counts)
        of_binary, measured, of_measured = rest[:4], rest[4], rest[5:]
        tasks = silos * len(self._shared)
        most = int(MOST / UNIT)
        return (
            min(records, loss, dropped, binary, measured) >= 0
            and loss <= (records + silos) * most * max(len(self._shared), 1)
            and binary + measured <= tasks
            and all(-silos <= c <= binary * int(1 / UNIT) + tasks for c in of_binary)
            and all(abs(c) <= measured * most + tasks for c in of_measured)
        )

    def figures(self, counts: npt.NDArray[np.int64], silos: int) -> TaskFigures:
        """Return the consortium's figures from summed counts. `silos` is not used here."""
        records, loss, dropped, binary, *rest = (int(c) for c in counts)
        of_binary, measured, of_measured = rest[:4], rest[4], rest[5:]

        def mean(total: int, of: int) -> float:
            return total * UNIT / of if of else float("nan")

        auroc, auprc, at_rate, calibration = (mean(s, binary) for s in of_binary)
        r2, rmse = (mean(s, measured) for s in of_measured)
        return TaskFigures(
            records,
            mean(loss, records),
            dropped,
            binary,
            auroc,
            auprc,
            at_rate,
            calibration,
            measured,
            r2,
            rmse,
        )


def by_task(
    outputs: npt.NDArray[Any], labels: npt.NDArray[Any], tasks: Tasks
) -> dict[str, Figures]:
    """Return the figures of the tasks that have enough labels.

    Args:
        outputs: float [records, tasks].
        labels: float [records, 2, tasks], from `blindsum.platform.data.labels`.
    """
    found = {}
    for i, (name, task) in enumerate(tasks.items()):
        figures = _of_task(outputs[:, i], labels[:, :, i], task)
        if figures is not None:
            found[name] = figures
    return found


def _of_task(outputs: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task) -> Figures | None:
    known = ~np.isnan(labels[:, 0]) & (labels[:, 1] == 0)
    said, true = outputs[known].astype(np.float64), labels[known, 0].astype(np.float64)
    finite = bool(np.isfinite(said).all())  # a diverged model gets the worst score
    if task.kind == "regression":
        if len(true) < LEAST or true.std() == 0:
            return None
        if not finite:
            return {"r2": -1.0, "rmse": MOST}
        squared = float(((said - true) ** 2).mean())
        return {"r2": 1 - squared / float(true.var()), "rmse": squared**0.5}
    if min((true == 1).sum(), (true == 0).sum()) < LEAST:
        return None
    if not finite:
        return {"auroc": 0.0, "auprc": 0.0, "auprc_at_0.1": 0.0, "calibration_error": 1.0}
    # Importing scikit-learn takes a second, at every silo.
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auroc": float(roc_auc_score(true, said)),
        "auprc": float(average_precision_score(true, said)),
        "auprc_at_0.1": precision_at_rate(true, said),
        "calibration_error": calibration_error(true, 1 / (1 + np.exp(-np.clip(said, -50, 50)))),
    }


def precision_at_rate(true: Reals, said: Reals, rate: float = REFERENCE) -> float:
    """Return the average precision if the share of positives were `rate` (Siblini et al., 2020,
    section 3)."""
    from sklearn.metrics import roc_curve

    false, right, _ = roc_curve(true, said, drop_intermediate=False)
    hits, misses = right * rate, false * (1 - rate)
    precision = np.divide(hits, hits + misses, out=np.ones_like(hits), where=hits + misses > 0)
    return float((np.diff(right) * precision[1:]).sum())


def calibration_error(true: Reals, probability: Reals, bins: int = 10) -> float:
    """Return the mean distance between probability and frequency over bins of equal width, weighted
    by records."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.abs(np.bincount(which, probability, bins) - np.bincount(which, true, bins))
    return float(gaps.sum() / max(counts.sum(), 1))

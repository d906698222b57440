"""Held-out figures of one silo by task, with each record's influence on them. Private to the silo.

    AUROC            area under the ROC curve
    AUPRC            average precision
    AUPRC at 0.1     the same if the share of positives were 0.1 (Siblini, Frery, He-Guelton, Oble
                     and Wang, IDA 2020), so that tasks can be compared
    calibration      expected calibration error, ten bins (Guo, Pleiss, Sun and Weinberger,
                     ICML 2017)
    conformal        efficiency and validity of Mondrian conformal predictions, see
                     `blindsum.platform.evaluation.conformal`
    enrichment       at the top 1 % and 5 %, and BEDROC, see
                     `blindsum.platform.evaluation.enrichment`
    R2, RMSE         for regression, in scaled units, over exactly measured values

`blindsum.platform.data.enough.has_enough` says which tasks are scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.compact import Numbers
from blindsum.platform.data.enough import exactly_known, has_enough
from blindsum.platform.data.growing import GrowingRecords
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.evaluation.conformal import conformal, least_of_share
from blindsum.platform.evaluation.enrichment import bedroc, enrichment
from blindsum.platform.evaluation.figures import CLASSIFIED, COVERED, RANKED, coverage
from blindsum.platform.evaluation.influence import (
    WORST_R2,
    Reals,
    least_of_auprc,
    least_of_auroc,
    on_auprc,
    on_auroc,
    on_calibration_error,
    on_r2,
)
from blindsum.platform.evaluation.intervals import TOPS, of_figure
from blindsum.platform.job.labels_section import Tasks

REFERENCE = 0.1

MOST = 64.0
"""Greatest figure, and greatest loss of a record: larger ones are cut, so that sums are bounded."""

Figures = dict[str, float]


class Scored(NamedTuple):
    """One task's figures at a silo, private to it; the worst ones if the model's output is not
    `finite`.

    `influence` has the influence of each labelled record on a figure, float64 [labels], and `more`
    the variance beyond it.
    """

    figures: Figures
    influence: dict[str, Reals]
    more: dict[str, float]
    finite: bool = True

    @property
    def diverged(self) -> bool:
        """Whether the figures are cut: see `TaskFigures`."""
        return not self.finite or self.figures.get("r2", 0.0) < WORST_R2

    @property
    def reported(self) -> Figures:
        """The figures with the ends of their intervals; none of a model without finite output."""
        if not self.finite:
            return {}
        found = dict(self.figures)
        positives, negatives = found.get("positives", 0), found.get("negatives", 0)
        for name, of_records in self.influence.items():
            variance = float((of_records**2).sum()) + self.more[name]
            ends = of_figure(name, found[name], variance, positives, negatives)
            found |= {f"{name}_low": ends.low, f"{name}_high": ends.high}
        for name, labels in zip(COVERED, (positives, negatives), strict=True):
            if name in found:
                found |= coverage(name, found.pop(name), labels)
        return found


class Answers:
    """A model's outputs for the labels of many tasks, batch by batch: most records have labels of
    few tasks."""

    def __init__(self) -> None:
        self._labels, self._outputs = GrowingRecords[TaskLabels](None), list[npt.NDArray[Any]]()
        self._records = 0

    def add(self, outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        """Add records.

        Args:
            outputs: float [records, tasks].
            labels: float [records, 2, tasks], from `blindsum.platform.data.labels`.
        """
        known = TaskLabels.of(labels)
        self.add_known(outputs[known.of_records, known.arrays[1]], known)

    def add_known(self, outputs: Numbers, labels: TaskLabels) -> None:
        """Add records, with one output for each label, [labels]."""
        self._labels.append(labels)
        self._outputs.append(outputs)
        self._records += len(labels)

    def __len__(self) -> int:
        return self._records

    @property
    def outputs(self) -> Numbers:
        """The outputs for all labels, [labels], record by record."""
        return np.concatenate(self._outputs)

    def by_task(self) -> Iterator[tuple[npt.NDArray[np.int64], Numbers, Numbers]]:
        """Yield the numbers of each task's labelled records, the outputs for them, float [labels],
        and their labels, float32 [labels, 2]."""
        labels, outputs = self._labels.whole(), self.outputs
        records, pairs = labels.of_records, labels.pairs
        for chosen in labels.of_tasks():
            yield records[chosen], outputs[chosen], pairs[chosen]


def by_task(
    outputs: npt.NDArray[Any], labels: npt.NDArray[Any], tasks: Tasks
) -> dict[str, Figures]:
    """Return the figures of the tasks that have enough labels, as `scores`.

    Args:
        outputs: float [records, tasks].
        labels: float [records, 2, tasks], from `blindsum.platform.data.labels`.
    """
    answers = Answers()
    answers.add(outputs, labels)
    return {name: one.figures for name, _, one in scores(answers, tasks)}


def scores(answers: Answers, tasks: Tasks) -> Iterator[tuple[str, npt.NDArray[np.int64], Scored]]:
    """Yield the names of the tasks that have enough labels, the numbers of the records that have
    one, and the scores."""
    of_tasks = zip(tasks.items(), answers.by_task(), strict=False)
    for (name, task), (records, outputs, labels) in of_tasks:
        if has_enough(labels, task):
            score = _measured if task.kind == "regression" else _classified
            yield name, records, score(outputs, labels)


def _measured(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Scored:
    known = exactly_known(labels)
    said, true = outputs[known].astype(np.float64), labels[known, 0].astype(np.float64)
    influence = np.zeros(len(known))
    if not np.isfinite(said).all():  # a diverged model gets the worst score
        return Scored({"r2": WORST_R2, "rmse": MOST}, {"r2": influence}, {"r2": 0.0}, finite=False)
    squared = float(((said - true) ** 2).mean())
    r2 = 1 - squared / float(true.var())
    influence[known] = on_r2(true, said)
    figures = {"r2": r2, "rmse": squared**0.5}
    return Scored(figures, {"r2": influence}, {"r2": 0.0})


def _classified(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Scored:
    known = exactly_known(labels)
    said, true = outputs[known].astype(np.float64), labels[known, 0].astype(np.float64)
    positives = int((true == 1).sum())
    negatives = len(true) - positives
    counted: Figures = {"positives": positives, "negatives": negatives}
    influence = {name: np.zeros(len(known)) for name in RANKED}
    if not np.isfinite(said).all():  # nothing is told apart, and sets have both labels
        figures = dict.fromkeys(CLASSIFIED, 0.0) | {"calibration_error": 1.0}
        figures |= dict(zip(COVERED, (positives, negatives), strict=True))
        return Scored(figures | counted, influence, dict.fromkeys(RANKED, 0.0), finite=False)
    probability = 1 / (1 + np.exp(-np.clip(said, -50, 50)))
    # Importing scikit-learn takes a second, at every silo.
    from sklearn.metrics import average_precision_score, roc_auc_score

    figures = {
        "auroc": float(roc_auc_score(true, said)),
        "auprc": float(average_precision_score(true, said)),
        "auprc_at_0.1": precision_at_rate(true, said),
        "calibration_error": calibration_error(true, probability),
    }
    influence["auroc"][known] = on_auroc(true, said)
    influence["auprc"][known] = on_auprc(true, said)
    influence["calibration_error"][known] = on_calibration_error(
        true, probability, bins_of(probability)
    )
    sets = conformal(true, said)
    figures |= {"conformal_efficiency": sets.efficiency, "conformal_empty": sets.empty}
    influence["conformal_efficiency"][known] = sets.influence
    for name, top in TOPS.items():
        figures[name], influence[name][known] = enrichment(true, said, top)
    figures["bedroc"], influence["bedroc"][known] = bedroc(true, said)
    least = {
        "auroc": least_of_auroc(figures["auroc"], positives, negatives),
        "auprc": least_of_auprc(figures["auprc"], positives),
        "conformal_efficiency": least_of_share(sets.efficiency, len(true)),
        "bedroc": least_of_share(figures["bedroc"], positives),
        "calibration_error": 0.0,
        **{n: least_of_share(figures[n] * top, positives) for n, top in TOPS.items()},
    }
    more = {n: max(least[n] - float((influence[n] ** 2).sum()), 0.0) for n in RANKED}
    covered = (sets.covered_positives, sets.covered_negatives)
    return Scored(figures | counted | dict(zip(COVERED, covered, strict=True)), influence, more)


def precision_at_rate(true: Reals, said: Reals, rate: float = REFERENCE) -> float:
    """Return the average precision if the share of positives were `rate` (Siblini et al., 2020,
    section 3)."""
    from sklearn.metrics import roc_curve

    false, right, _ = roc_curve(true, said, drop_intermediate=False)
    hits, misses = right * rate, false * (1 - rate)
    precision = np.divide(hits, hits + misses, out=np.ones_like(hits), where=hits + misses > 0)
    return float((np.diff(right) * precision[1:]).sum())


def bins_of(probability: Reals, bins: int = 10) -> npt.NDArray[np.int64]:
    """Return each record's bin of equal width, int64 [records]."""
    return np.minimum((probability * bins).astype(np.int64), bins - 1)


def calibration_error(true: Reals, probability: Reals, bins: int = 10) -> float:
    """Return the mean distance between probability and frequency over bins of equal width, weighted
    by records."""
    which = bins_of(probability, bins)
    counts = np.bincount(which, minlength=bins)
    gaps = np.abs(np.bincount(which, probability, bins) - np.bincount(which, true, bins))
    return float(gaps.sum() / max(counts.sum(), 1))

"""The whole consortium's figures of a round, and the counts that a silo sends for them.

Public. The driver reads them, and needs no torch for it. `blindsum.platform.evaluation.classes` and
`blindsum.platform.evaluation.tasks` count them.

A figure of a diverged model is NaN here. No output and no log has it: outputs say "diverged".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from blindsum.platform.evaluation.intervals import (
    TOPS,
    Interval,
    of_share,
    with_interval,
)
from blindsum.platform.evaluation.pair_figures import GROUP_COUNTS, PairFigures
from blindsum.platform.job.labels_section import task_groups
from blindsum.platform.job.schema import Job

OF_UPDATE = 3
"""The number of counts of the update."""

OF_CLASSES = 4
"""The number of counts of held-out records before those of each class."""

RANKED = ("auroc", "auprc", "conformal_efficiency", *TOPS, "bedroc", "calibration_error")
"""Figures of binary tasks whose variance silos send too."""

CLASSIFIED, MEASURED = (
    (*RANKED, "auprc_at_0.1", "conformal_empty"),
    ("r2", "rmse"),
)
COVERED = ("covered_positives", "covered_negatives")
"""The numbers of positives and of negatives with their label in their conformal set."""

TASK_COUNTS = (
    *("records", "loss", "dropped"),
    *("binary_tasks", *CLASSIFIED, "binary_diverged", "positives", "negatives", *COVERED),
    *(f"{name}_variance" for name in RANKED),
    *("regression_tasks", *MEASURED, "regression_diverged", "r2_variance"),
)
"""The counts of tasks, in order: sums over silos, and over their shared tasks. Those of each group
of tasks follow, as `GROUP_COUNTS`."""

GROUP = "."
"""Stands between the name of a figure and that of the group of tasks that it is of."""

SIGNIFICANCE = 0.2
"""The share of positives, and of negatives, whose conformal sets may lack their label."""

RARE = 0.1
"""Where fewer labels than this share are positive, outputs also show the AUPRC."""


class Score(NamedTuple):
    """A model's main figure with its interval, and the figure that guessing reaches. The value of a
    diverged model is NaN, and its interval None."""

    name: str
    value: float
    guess: float
    guess_name: str
    interval: Interval | None

    @property
    def short(self) -> str:
        """The value for a table's cell."""
        return "diverged" if math.isnan(self.value) else f"{self.value:.3f}"

    @property
    def written(self) -> str:
        """The value with its interval."""
        return self.short if math.isnan(self.value) else with_interval(self.value, self.interval)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out figures of the whole consortium.

    `loss` is the mean cross-entropy in nats, `largest_class` the accuracy of always guessing
    the most frequent class, `dropped` the number of records and labels that silos left out,
    `deviation` the accuracy's standard deviation due to the noise on the counts, 0 if they are
    exact. Accuracy and loss are NaN if every record has the greatest loss that is counted.
    """

    records: int
    accuracy: float
    loss: float
    largest_class: float
    dropped: int
    deviation: float = 0.0

    @property
    def score(self) -> Score:
        """The main figure, and that of always guessing the largest class."""
        return Score(
            "accuracy",
            self.accuracy,
            self.largest_class,
            "always the largest class",
            self._interval,
        )

    @property
    def _interval(self) -> Interval | None:
        if math.isnan(self.accuracy):
            return None
        return of_share(self.accuracy, self.records, self.deviation)

    @property
    def rare(self) -> Score | None:
        """The figure to show where positives are rare: None, because classes have none."""
        return None

    def line(self) -> str:
        """Return the result in words, the accuracy with its interval."""
        records = f"{'about ' if self.deviation else ''}{self.records} held-out records"
        if self._interval is None:
            return f"accuracy: diverged (the loss of all {records} is out of range)"
        noise = "with the noise on the counts" if self.deviation else ""
        return (
            f"accuracy {with_interval(self.accuracy, self._interval, noise)} on {records} "
            f"(always the largest class: {self.largest_class:.3f})"
        )

    def detail(self) -> str:
        """Return the result in words, with the loss."""
        if math.isnan(self.loss):
            return self.line()
        noisier = " (both noisier than the accuracy)" if self.deviation else ""
        return f"{self.line()}; loss {self.loss:.3f}{noisier}"

    def as_dict(self) -> dict[str, float]:
        """Return all figures by name."""
        return _finite(asdict(self) | _ends("accuracy", self._interval))

    def tracked(self) -> dict[str, float]:
        """Return the figures under the names that MLflow shows."""
        found = {
            "accuracy": self.accuracy,
            **_ends("accuracy", self._interval),
            "loss": self.loss,
            "held_out_records": self.records,
            "largest_class_accuracy": self.largest_class,
            "dropped_records": self.dropped,
            "accuracy_diverged": float(math.isnan(self.accuracy)),
        }
        return _finite(found) | ({"accuracy_deviation": self.deviation} if self.deviation else {})


@dataclass(frozen=True, kw_only=True)
class TaskFigures(PairFigures):
    """The mean of each figure over the shared tasks of all silos, as `PairFigures`.

    `covered_positives` and `covered_negatives` are those of `positives` and `negatives` with their
    label in their conformal set. `groups` has the figures of each group of tasks.

    `loss` is the mean over records, weighted as in training, and NaN if all are at the greatest
    loss that is counted. `dropped` is the number of records and labels that silos left out.
    """

    records: int
    loss: float
    dropped: int
    auprc: float
    enrichment_1_percent: float
    enrichment_5_percent: float
    bedroc: float
    auprc_at_fixed_rate: float
    calibration_error: float
    conformal_empty: float
    covered_positives: int
    covered_negatives: int
    auprc_variance: float
    enrichment_1_percent_variance: float
    enrichment_5_percent_variance: float
    bedroc_variance: float
    calibration_error_variance: float
    rmse: float
    groups: Mapping[str, PairFigures] = field(default_factory=dict)

    deviation = 0.0  # these figures carry no noise

    @property
    def score(self) -> Score:
        """The main figure, and the score of guessing."""
        if self.binary_tasks:
            return Score("mean AUROC", self.auroc, 0.5, "guessing", self.interval("auroc"))
        return Score("mean R2", self.r2, 0.0, "always the mean", self.interval("r2"))

    @property
    def rare(self) -> Score | None:
        """The mean AUPRC where positives are rare, which the AUROC hides."""
        labels = self.positives + self.negatives
        share = self.positives / labels if labels else 0.0
        if not 0 < share < RARE or math.isnan(self.auprc):
            return None
        return Score("mean AUPRC", self.auprc, share, "guessing", self.interval("auprc"))

    def line(self) -> str:
        """Return the main figures in words."""
        parts = []
        if self.binary_tasks:
            parts.append(self._of_binary())
        if self.regression_tasks:
            parts.append(self._of_regression())
        said = " and ".join(parts) or "no shared task has enough held-out labels for a score"
        return f"{said} ({self.records} held-out records)"

    def _of_binary(self) -> str:
        pairs = _counted(self.binary_tasks, "silo-task pair")
        if math.isnan(self.auroc):
            return f"mean AUROC: diverged (the model has no finite output in {pairs})"
        figures = f"mean AUROC {with_interval(self.auroc, self.interval('auroc'))}"
        if self.rare:
            guess = f"guessing: {self.rare.guess:.3f}"
            shown = with_interval(self.rare.value, self.rare.interval, guess)
            figures += f", mean AUPRC {shown}"
        lost = (
            f", of which {self.binary_diverged} diverged and count as 0"
            if self.binary_diverged
            else ""
        )
        labels = f"{self.positives} positives and {self.negatives} negatives"
        return f"{figures} over {pairs} with {labels}{lost}"

    def _of_regression(self) -> str:
        pairs = _counted(self.regression_tasks, "silo-task pair")
        if math.isnan(self.r2):
            return f"mean R2: diverged (below -1 in {pairs})"
        lost = (
            f", of which {self.regression_diverged} diverged and count as -1"
            if self.regression_diverged
            else ""
        )
        return f"mean R2 {with_interval(self.r2, self.interval('r2'))} over {pairs}{lost}"

    def detail(self) -> str:
        """Return `line` with conformal predictions and the loss."""
        said = self.line()
        if self.binary_tasks and not math.isnan(self.conformal_efficiency):
            said += f"; {self._of_conformal()}"
        return said if math.isnan(self.loss) else f"{said}; loss {self.loss:.3f}"

    def _of_conformal(self) -> str:
        efficiency = with_interval(self.conformal_efficiency, self.interval("conformal_efficiency"))
        confidence = f"{100 - 100 * SIGNIFICANCE:.0f} % confidence"
        return (
            f"conformal efficiency {efficiency} at {confidence} (sets have "
            f"the label of {self.covered_positives / self.positives:.3f} of the positives and "
            f"{self.covered_negatives / self.negatives:.3f} of the negatives)"
        )

    def as_dict(self) -> dict[str, float]:
        """Return the figures that are not NaN, with the ends of intervals instead of variances."""
        left_out = ("groups", *COVERED)
        found = {
            k: v for k, v in vars(self).items() if not k.endswith("_variance") and k not in left_out
        }
        for name in RANKED if self.binary_tasks else ():
            found |= self.ends(name)
        if self.binary_tasks and not math.isnan(self.conformal_efficiency):
            found |= coverage("covered_positives", self.covered_positives, self.positives)
            found |= coverage("covered_negatives", self.covered_negatives, self.negatives)
        for group, of in self.groups.items():
            found |= {f"{name}{GROUP}{group}": value for name, value in of.of_group().items()}
        return _finite(found | self.ends("r2"))

    def tracked(self) -> dict[str, float]:
        """Return the figures under MLflow's names."""
        named = {"records": "held_out_records", "dropped": "dropped_records"}
        found = {named.get(name, name): value for name, value in self.as_dict().items()}
        if self.binary_tasks:
            found["auroc_diverged"] = float(math.isnan(self.auroc))
        if self.regression_tasks:
            found["r2_diverged"] = float(math.isnan(self.r2))
        return found


def coverage(name: str, covered: float, labels: float) -> dict[str, float]:
    """Return the share of labels that are in their conformal set, with the ends of its interval.

    Args:
        name: one of `COVERED`.
        covered: how many of the labels are.
    """
    name, share = name.replace("covered_", "coverage_of_"), covered / labels
    return {name: share} | _ends(name, of_share(share, labels))


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}


def _finite(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of the whole consortium for one round.

    `saturated` is the share of update values cut by the range, `large` the share beyond an eighth
    of the range. `unclipped` is the noised share of gradients within the clip norm, if the clip
    norm adapts. `held_out` is None if no model was evaluated.
    """

    saturated: float
    large: float
    unclipped: float | None
    held_out: HeldOut | TaskFigures | None

    def as_dict(self) -> dict[str, float]:
        """Return all available figures by name."""
        held_out = self.held_out.as_dict() if self.held_out else {}
        own = {k: v for k, v in vars(self).items() if isinstance(v, (int, float))}
        return own | held_out


def evaluates(job: Job, round: int, roster: Sequence[str]) -> bool:
    """Return whether the model after that round is evaluated by these silos.

    Exact counts cover all silos of the job or are not released: the difference of two rosters'
    counts would be one silo's. Noised counts are charged and may cover fewer silos.
    """
    return job.evaluates(round) and (tuple(roster) == job.roster or job.noises_held_out)


def count_values(job: Job) -> int:
    """Return the number of counts that a silo sends."""
    target = job.data.target
    if target:
        return OF_UPDATE + OF_CLASSES + len(target.classes)
    groups = task_groups(job.data.tasks or {})
    return OF_UPDATE + len(TASK_COUNTS) + len(groups) * len(GROUP_COUNTS)

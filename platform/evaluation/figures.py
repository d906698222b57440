"""The whole consortium's figures of a round, and the counts that a silo sends for them.

Public. The driver reads them, and needs no torch for it. `blindsum.platform.evaluation.classes` and
`blindsum.platform.evaluation.tasks` count them.

A figure of a diverged model is NaN here. No output and no log has it: outputs say "diverged".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from blindsum.platform.evaluation.intervals import (
    Interval,
    of_r2,
    of_ranking,
    of_share,
    with_interval,
)
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import metrics_plan

OF_UPDATE = 3
"""The number of counts of the update."""

OF_CLASSES = 4
"""The number of counts of held-out records before those of each class."""

CLASSIFIED, MEASURED = ("auroc", "auprc", "auprc_at_0.1", "calibration_error"), ("r2", "rmse")
TASK_COUNTS = (
    *("records", "loss", "dropped"),
    *("binary_tasks", *CLASSIFIED, "binary_diverged", "positives", "negatives"),
    *("auroc_variance", "auprc_variance"),
    *("regression_tasks", *MEASURED, "regression_diverged", "r2_variance"),
)
"""The counts of tasks, in order: sums over silos, and over their shared tasks."""

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
class TaskFigures:
    """The mean of each figure over the shared tasks of all silos; NaN for a kind without a task.

    `binary_tasks` and `regression_tasks` count a task once for each silo that has enough labels of
    it: they count silo-task pairs. `positives` and `negatives` are the labels of the binary ones.
    `binary_diverged` counts pairs for which the model has no finite output (its AUROC counts as 0),
    `regression_diverged` also those with an R2 below -1 (which counts as -1). If all pairs of a
    kind diverged, its figures are NaN.

    `loss` is the mean over records, weighted as in training, and NaN if all are at the greatest
    loss that is counted. `dropped` is the number of records and labels that silos left out.
    Variances are those of the means, see `blindsum.platform.evaluation.influence`.
    """

    records: int
    loss: float
    dropped: int
    binary_tasks: int
    auroc: float
    auprc: float
    auprc_at_fixed_rate: float
    calibration_error: float
    binary_diverged: int
    positives: int
    negatives: int
    auroc_variance: float
    auprc_variance: float
    regression_tasks: int
    r2: float
    rmse: float
    regression_diverged: int
    r2_variance: float

    deviation = 0.0  # these figures carry no noise

    @property
    def score(self) -> Score:
        """The main figure, and the score of guessing."""
        if self.binary_tasks:
            return Score("mean AUROC", self.auroc, 0.5, "guessing", self._ranked("auroc"))
        return Score("mean R2", self.r2, 0.0, "always the mean", self._r2_interval)

    @property
    def rare(self) -> Score | None:
        """The mean AUPRC where positives are rare, which the AUROC hides."""
        labels = self.positives + self.negatives
        share = self.positives / labels if labels else 0.0
        if not 0 < share < RARE or math.isnan(self.auprc):
            return None
        return Score("mean AUPRC", self.auprc, share, "guessing", self._ranked("auprc"))

    def _ranked(self, name: str) -> Interval | None:
        mean, variance = getattr(self, name), getattr(self, f"{name}_variance")
        if math.isnan(mean):
            return None
        # An AUPRC is a mean over positives.
        fewest = min(self.positives, self.negatives) if name == "auroc" else self.positives
        return of_ranking(mean, variance, fewest, self.binary_tasks)

    @property
    def _r2_interval(self) -> Interval | None:
        return None if math.isnan(self.r2) else of_r2(self.r2, self.r2_variance)

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
        figures = f"mean AUROC {with_interval(self.auroc, self._ranked('auroc'))}"
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
        return f"mean R2 {with_interval(self.r2, self._r2_interval)} over {pairs}{lost}"

    def detail(self) -> str:
        """Return `line` with the loss."""
        return self.line() if math.isnan(self.loss) else f"{self.line()}; loss {self.loss:.3f}"

    def as_dict(self) -> dict[str, float]:
        """Return the figures that are not NaN, with the ends of intervals instead of variances."""
        found = {k: v for k, v in asdict(self).items() if not k.endswith("_variance")}
        if self.binary_tasks:
            found |= _ends("auroc", self._ranked("auroc")) | _ends("auprc", self._ranked("auprc"))
        return _finite(found | _ends("r2", self._r2_interval))

    def tracked(self) -> dict[str, float]:
        """Return the figures under MLflow's names."""
        named = {"records": "held_out_records", "dropped": "dropped_records"}
        found = {named.get(name, name): value for name, value in self.as_dict().items()}
        if self.binary_tasks:
            found["auroc_diverged"] = float(math.isnan(self.auroc))
        if self.regression_tasks:
            found["r2_diverged"] = float(math.isnan(self.r2))
        return found


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
    return job.evaluates(round) and (tuple(roster) == job.roster or metrics_plan(job) is not None)


def count_values(job: Job) -> int:
    """Return the number of counts that a silo sends."""
    target = job.data.target
    return OF_UPDATE + (OF_CLASSES + len(target.classes) if target else len(TASK_COUNTS))

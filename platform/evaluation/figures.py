"""The whole consortium's figures of a round, and the number of counts that a silo sends for them.

Public. The driver reads them, and needs no torch for it. `blindsum.platform.evaluation.classes` and
`blindsum.platform.evaluation.tasks` count them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from blindsum.platform.job.schema import Job

OF_UPDATE = 3
"""The number of counts of the update."""

OF_CLASSES = 4
"""The number of counts of held-out records before those of each class."""

CLASSIFIED, MEASURED = ("auroc", "auprc", "auprc_at_0.1", "calibration_error"), ("r2", "rmse")
OF_TASKS = 3 + 1 + len(CLASSIFIED) + 1 + len(MEASURED)
"""The number of counts of tasks: records, loss, dropped records; and for each kind, tasks and
figures."""


class Score(NamedTuple):
    """A model's main figure, and the figure that guessing reaches."""

    name: str
    value: float
    guess: float
    guess_name: str


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out figures of the whole consortium.

    `loss` is the mean cross-entropy in nats, `largest_class` the accuracy of always guessing
    the most frequent class, `dropped` the number of records and labels that silos left out,
    `deviation` the accuracy's standard deviation due to the noise on the counts, 0 if they are
    exact.
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
        return Score("accuracy", self.accuracy, self.largest_class, "always the largest class")

    @property
    def standard_error(self) -> float:
        """The accuracy's standard error: binomial, of that many records, and of the noise."""
        sampled = max(self.accuracy * (1 - self.accuracy), 0.0) / max(self.records, 1)
        return math.sqrt(sampled + self.deviation**2)

    def line(self) -> str:
        """Return the result in words, the accuracy with one standard error."""
        about = "about " if self.deviation else ""
        return (
            f"accuracy {self.accuracy:.3f} ± {self.standard_error:.3f} on {about}{self.records} "
            f"held-out records (always the largest class: {self.largest_class:.3f})"
        )

    def detail(self) -> str:
        """Return the result in words, with the loss."""
        noisier = " (both noisier than the accuracy)" if self.deviation else ""
        return f"{self.line()}; loss {self.loss:.3f}{noisier}"

    def as_dict(self) -> dict[str, float]:
        """Return all figures by name."""
        return asdict(self) | {"standard_error": self.standard_error}

    def tracked(self) -> dict[str, float]:
        """Return the figures under the names that MLflow shows."""
        found = {
            "accuracy": self.accuracy,
            "accuracy_standard_error": self.standard_error,
            "loss": self.loss,
            "held_out_records": self.records,
            "largest_class_accuracy": self.largest_class,
            "dropped_records": self.dropped,
        }
        return found | ({"accuracy_deviation": self.deviation} if self.deviation else {})


@dataclass(frozen=True)
class TaskFigures:
    """The mean of each figure over the shared tasks of all silos; NaN for a kind without a task.

    `binary_tasks` and `regression_tasks` count a task once for each silo that has enough labels of
    it. `loss` is the mean over records, weighted as in training. `dropped` is the number of records
    and labels that silos left out.
    """

    records: int
    loss: float
    dropped: int
    binary_tasks: int
    auroc: float
    auprc: float
    auprc_at_fixed_rate: float
    calibration_error: float
    regression_tasks: int
    r2: float
    rmse: float

    deviation = 0.0  # these figures carry no noise

    @property
    def score(self) -> Score:
        """The main figure, and the score of guessing."""
        if self.binary_tasks:
            return Score("mean AUROC", self.auroc, 0.5, "guessing")
        return Score("mean R2", self.r2, 0.0, "always the mean")

    def line(self) -> str:
        """Return the main figures in words."""
        parts = []
        if self.binary_tasks:
            parts.append(f"mean AUROC {self.auroc:.3f} over {self.binary_tasks} silo-task pairs")
        if self.regression_tasks:
            parts.append(f"mean R2 {self.r2:.3f} over {self.regression_tasks} silo-task pairs")
        said = " and ".join(parts) or "no shared task has enough held-out labels for a score"
        return f"{said} ({self.records} held-out records)"

    def detail(self) -> str:
        """Return `line` with the loss."""
        return f"{self.line()}; loss {self.loss:.3f}"

    def as_dict(self) -> dict[str, float]:
        """Return the figures that are not NaN."""
        return {k: v for k, v in asdict(self).items() if not np.isnan(v)}

    def tracked(self) -> dict[str, float]:
        """Return the figures under MLflow's names."""
        named = {"records": "held_out_records", "dropped": "dropped_records"}
        return {named.get(name, name): value for name, value in self.as_dict().items()}


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures of the whole consortium for one round.

    `saturated` is the share of update values cut by the range, `large` the share beyond an eighth
    of the range. `unclipped` is the noised share of gradients within the clip norm, if the clip
    norm adapts. `held_out` is None in rounds without evaluation.
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


def count_values(job: Job) -> int:
    """Return the number of counts that a silo sends."""
    target = job.data.target
    return OF_UPDATE + (OF_CLASSES + len(target.classes) if target else OF_TASKS)

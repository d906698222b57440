"""The driver's report on a completed round. Public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blindsum.actors.messages import ApplyReport, TotalReport, TrainReport
from blindsum.platform.evaluation.figures import HeldOut, Metrics, TaskFigures


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the silos found of a model on their held-out records.

    Attributes:
        held_out: None if the model was not to be evaluated.
        epsilon: the spend on held-out records so far, if they have a budget.
        up_bytes, down_bytes: of its own exchange; 0 if it travelled with an update.
    """

    held_out: HeldOut | TaskFigures | None
    epsilon: float | None
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round of the whole consortium.

    Attributes:
        range: the range to which update values were cut.
        epsilon: each silo's spend so far.
        phases: seconds of each phase, for the slowest silo or aggregator.
        roster: the silos of the round.
        model_digest: of the model that would be released after this round.
        state_digest: of the newest model and its average, from which the next round starts.
        ledgers: the heads of the silos' ledgers.
        clip_norm: the clip norm of this round; None without differential privacy.
        metrics_epsilon: the spend on held-out records so far, if they have a budget.
        metrics: of the update; of the model after the round, once that is evaluated.
        before: the evaluation of the model from which the round started.
    """

    round: int
    attempt: int
    range: float
    metrics: Metrics
    model_digest: str
    epsilon: Mapping[str, float]
    up_bytes: int
    down_bytes: int
    seconds: float
    phases: Mapping[str, float]
    roster: tuple[str, ...] = ()
    ledgers: Mapping[str, str] = field(default_factory=dict)
    clip_norm: float | None = None
    metrics_epsilon: float | None = None
    state_digest: str = ""
    before: Evaluation | None = None

    def evaluated(self, found: Evaluation) -> RoundReport:
        """Return this report with the evaluation of the model after the round."""
        return replace(
            self,
            metrics=replace(self.metrics, held_out=found.held_out),
            metrics_epsilon=found.epsilon,
            up_bytes=self.up_bytes + found.up_bytes,
            down_bytes=self.down_bytes + found.down_bytes,
        )


def phases_of(
    trained: list[TrainReport], closed: list[TotalReport], applied: list[ApplyReport]
) -> dict[str, float]:
    """Return the seconds of each phase, for the slowest silo or aggregator."""
    return {
        "charge": max(t.charge_s for t in trained),
        "train": max(t.train_s for t in trained),
        "send": max(t.send_s for t in trained),
        "add": max(t.add_s for t in closed),
        "total": max(t.total_s for t in closed),
        "decrypt": max(a.decrypt_s for a in applied),
        "apply": max(a.apply_s for a in applied),
    }

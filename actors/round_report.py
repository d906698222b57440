"""The driver's report on a completed round. Public."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from blindsum.actors.agreement import same_digest, same_metrics
from blindsum.actors.messages import ApplyReport, TotalReport, TrainReport
from blindsum.he.exchange import Exchange
from blindsum.platform.evaluation.figures import HeldOut, Metrics, TaskFigures
from blindsum.platform.job.schema import Job


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


def reported(
    job: Job,
    update: Exchange,
    trained: list[TrainReport],
    closed: list[TotalReport],
    applied: list[ApplyReport],
    seconds: float,
    metrics_epsilon: float | None,
) -> RoundReport:
    """Return the report on an attempt in which every silo applied the total.

    Raises:
        ModelsDiffer: they do not all say the same.
    """
    number, privacy = update.round, job.privacy
    metrics = same_metrics(a.metrics for a in applied)
    return RoundReport(
        round=number,
        attempt=update.attempt,
        range=update.range or 0.0,
        metrics=replace(metrics, held_out=None),
        model_digest=same_digest((a.model_digest for a in applied), "averaged model", number),
        state_digest=same_digest((a.state_digest for a in applied), "model", number),
        epsilon={t.silo: t.epsilon for t in trained if t.epsilon is not None},
        up_bytes=sum(t.upload_bytes for t in trained),
        down_bytes=len(applied) * sum(t.total_bytes for t in closed),
        seconds=seconds,
        phases=phases_of(trained, closed, applied),
        roster=update.roster,
        ledgers={t.silo: t.ledger for t in trained},
        clip_norm=None if privacy.noise == "none" else privacy.clip_norm * update.clipping,
        metrics_epsilon=metrics_epsilon,
        before=Evaluation(held_out=metrics.held_out, epsilon=metrics_epsilon),
    )


def most_spent(reports: Iterable[TrainReport], before: float | None) -> float | None:
    """Return the greatest spend on held-out records so far."""
    spent = [one.metrics_epsilon for one in reports if one.metrics_epsilon is not None]
    return max(spent, default=before)


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

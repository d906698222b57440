"""Whether a run ends early, by the held-out figures of the consortium."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import TrainingSection

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport


def stopped_early(training: TrainingSection, reports: Sequence[RoundReport]) -> str:
    """Return why a run ends after its last round; empty if it goes on, or has no rounds left.

    It ends when no figure of the last `patience` evaluated rounds exceeds the best one before by
    more than `least`. A round's figure arrives with the next round, which is then the last. All
    silos and the driver have these figures anyway, so that this costs no further budget. The noise
    was planned for all rounds; what the others would have cost is not spent.
    """
    rule = training.stop
    if rule is None or not reports or reports[-1].round >= training.rounds:
        return ""
    figures = [one.metrics.held_out.score.value for one in reports if one.metrics.held_out]
    scores = [-math.inf if math.isnan(value) else value for value in figures]
    before, last = scores[: -rule.patience], scores[-rule.patience :]
    fresh = len(reports) > 1 and reports[-2].metrics.held_out  # came with the last round
    if not before or not fresh or max(last) > max(before) + rule.least:
        return ""
    return (
        f"stopped after round {reports[-1].round} of {training.rounds}: no improvement in "
        f"{rule.patience} evaluated rounds (training.stop). Held-out figures that decide when a "
        "run ends are a little too good"
    )


def converged(job: Job, reports: Sequence[RoundReport]) -> str:
    """Return why a regression without noise ends after its last round; empty if it goes on.

    Its silos keep a fit that has converged, or never will, as it is: the model has the same digest
    again.
    """
    if job.model.kind != "regression" or len(reports) < 2 or job.privacy.noise != "none":
        return ""
    last, before = reports[-1], reports[-2]
    if last.model_digest != before.model_digest or last.round >= job.training.rounds:
        return ""
    return f"the fit stands: round {last.round} changed nothing"

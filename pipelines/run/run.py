"""The state of one run, from its start to its summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blindsum.pipelines.run.moving import still_moving
from blindsum.platform.job.average_section import described
from blindsum.platform.job.file import JobFile

if TYPE_CHECKING:  # torch, Ray and MLflow are imported while Ray starts, not before
    from blindsum.actors.messages import Standing
    from blindsum.actors.round_report import RoundReport
    from blindsum.actors.silo_messages import Inspection
    from blindsum.pipelines.run.run_log import Kept
    from blindsum.platform.evaluation.figures import HeldOut, TaskFigures
    from blindsum.platform.privacy.plan import PrivacyPlan
    from blindsum.platform.tracking.mlflow_run import RunLink, Status
    from blindsum.platform.training.regression.inference import Inference
    from blindsum.platform.training.statistics.figures import Figures


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The specification of a run before it begins.

    Attributes:
        folder: the folder for its results.
        resumed: the interrupted run that it continues.
        simulated: whether all silos are threads of this process.
    """

    name: str
    job_file: JobFile
    folder: Path
    resumed: Kept | None = None
    simulated: bool = False


@dataclass(frozen=True)
class SavedModel:
    """The file with the consortium's model, and the round after which it was saved."""

    path: Path
    round: int


@dataclass
class Run:
    """A run: its state while it lasts, and its results at the end.

    Attributes:
        standing: the federation's standing; None before it started.
        announced: the last round that was announced to the silos.
        ended: why the run ended before its last round, or None.
        unsaved: why results could not be saved, or None.
        inference: the coefficients of a regression, once it is saved.
        statistics: the figures of a run of statistics that ended.
        unkept: why the run cannot be resumed from its last rounds, or None.
    """

    spec: RunSpec
    started: float = field(default_factory=time.monotonic)
    status: Status = "FAILED"
    ended: str | None = None
    rounds_planned: int = 0
    inspections: Mapping[str, Inspection] = field(default_factory=dict)
    reports: list[RoundReport] = field(default_factory=list)
    standing: Standing | None = None
    announced: int = 0
    startup_s: float = 0.0
    link: RunLink | None = None
    saved: SavedModel | None = None
    statistics: Figures | None = None
    tracking_failure: str | None = None
    unsaved: str | None = None
    unkept: str | None = None
    inference: Inference | None = None
    interrupted: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """The run's unique name."""
        return self.spec.name

    @property
    def job_file(self) -> JobFile:
        """The run's job."""
        return self.spec.job_file

    @property
    def folder(self) -> Path:
        """The folder for the run's results."""
        return self.spec.folder

    @property
    def retries(self) -> int:
        """Attempts beyond each round's first."""
        return self.standing.retries if self.standing else 0

    @property
    def lost(self) -> Mapping[str, int]:
        """Silos that were dropped, by the round in which they were lost."""
        return self.standing.lost if self.standing else {}

    @property
    def seconds(self) -> float:
        """Seconds since the run was started."""
        return time.monotonic() - self.started

    @property
    def plans(self) -> dict[str, PrivacyPlan | None]:
        """Each silo's privacy plan in this run. A silo that did not report one, since it was lost,
        or since a resumed run failed before, has the plan that follows from the job."""
        roster = self.job_file.job.roster
        known = set(roster) if self.spec.resumed else {*self.inspections, *self.lost}
        return {
            name: self.inspections[name].plan if name in self.inspections else self._plan(name)
            for name in roster
            if name in known
        }

    def _plan(self, silo: str) -> PrivacyPlan | None:
        from blindsum.platform.privacy.plan import plan

        return plan(self.job_file.job, silo) if self.job_file.job.private else None

    def budget(self, silo: str) -> float | None:
        """Return the epsilon that a silo may spend; None without differential privacy."""
        plan = self.plans[silo]
        return plan.epsilon if plan else None

    def held_out(self) -> tuple[int, HeldOut | TaskFigures] | None:
        """Return the newest evaluation and its round, or None."""
        found = [(r.round, r.metrics.held_out) for r in self.reports if r.metrics.held_out]
        return found[-1] if found else None

    @property
    def still_moving(self) -> bool:
        """Whether the newest figures disagree beyond their noise."""
        return still_moving([r.metrics.held_out for r in self.reports if r.metrics.held_out])

    def headline(self) -> str:
        """Summarise the result and its spend in one line."""
        found = self.held_out()
        reached = found[1].line() if found else "no round was evaluated"
        if not self.job_file.job.model.is_scored:
            reached = f"statistics of {', '.join(self.job_file.job.roster)}"
        if found and found[0] < len(self.reports):
            reached += (
                f" after round {found[0]} of {len(self.reports)}, the last that was evaluated"
            )
        spent = self.epsilon()
        delta = next((plan.delta for plan in self.plans.values() if plan), 0.0)
        privacy = (
            f"epsilon at most {max(spent.values()):.3g}, delta {delta:g}"
            if spent
            else "no differential privacy"
        )
        return f"{reached}, {privacy}"

    def also(self, text: str) -> None:
        """Add a reason to how the run ended."""
        self.ended = f"{self.ended}; {text}" if self.ended else text

    def epsilon(self) -> dict[str, float]:
        """Return an upper bound on what each silo spent: an announced round counts as charged, and
        so does every further attempt."""
        from blindsum.platform.privacy.accounting import spent_epsilon

        known = (
            self.reports[-1].epsilon if self.announced == len(self.reports) and self.reports else {}
        )
        return {
            # The ledger refuses a charge above the budget, so such an attempt was not charged.
            name: known[name]
            if name in known
            else min(
                plan.epsilon,
                spent_epsilon(
                    plan.noise_multiplier,
                    plan.sampling_rate,
                    plan.steps_per_round * (self.lost.get(name, self.announced) + self.retries),
                    plan.delta,
                ),
            )
            for name, plan in self.plans.items()
            if plan and self.announced
        }

    def summary(self) -> dict[str, object]:
        """Return everything about the run, as `--json` prints it at the end."""
        link = self.link
        last = self.reports[-1] if self.reports else None
        found: dict[str, object] = {}
        if self.statistics:
            found["statistics"] = self.statistics.as_dict()
        if simulated := self.job_file.job.simulated:
            found["simulated"] = simulated
        return found | {
            "run": self.name,
            "status": self.status,
            "ended": self.ended,
            "rounds": len(self.reports),
            "rounds_planned": self.rounds_planned,
            "metrics": last.metrics.as_dict() if last else None,
            "still_moving": self.still_moving,
            "metrics_epsilon": last.metrics_epsilon if last else None,
            "rounds_announced": self.announced,
            "retries": self.retries,
            "lost": dict(self.lost),
            "epsilon": self.epsilon(),
            "delta": next((plan.delta for plan in self.plans.values() if plan), None),
            "up_bytes": sum(r.up_bytes for r in self.reports),
            "down_bytes": sum(r.down_bytes for r in self.reports),
            "startup_s": round(self.startup_s, 3),
            "seconds": round(self.seconds, 3),
            "model": str(self.saved.path) if self.saved else None,
            "model_round": self.saved.round if self.saved else None,
            "model_digest": last.model_digest if last else None,
            "model_average": described(self.job_file.job.training.average),
            "tracking_uri": link.uri if link else None,
            "experiment": link.experiment if link else None,
            "mlflow_run": link.run_id if link else None,
            "tracking_failure": self.tracking_failure,
            "ledgers": {name: i.ledger for name, i in self.inspections.items() if i.ledger},
            "consent_enforced": {name: i.owned for name, i in self.inspections.items()},
            **({"regression": self.inference.as_dict()} if self.inference else {}),
        }

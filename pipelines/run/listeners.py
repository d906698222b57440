"""Listeners to a run, for the terminal, MLflow, the run's own log, log collectors and Prometheus.

`Listeners` passes every event to several listeners in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from blindsum.pipelines.run.run import Run
from blindsum.platform.events import Log
from blindsum.platform.tracking import names

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.infra.meters import Meters
    from blindsum.pipelines.run.run_log import RunLog
    from blindsum.platform.tracking.mlflow_run import Tracker

NAME = "log.jsonl"
"""The file in the run's folder with the driver's events, one a line."""


class Listener:
    """A listener to a run's events. Subclasses override the methods that they need."""

    def stage(self, text: str) -> None:
        """Hear that a slow stage begins."""

    def planned(self, run: Run) -> None:
        """Hear that the silos are ready, the plan is complete and rounds begin."""

    def completed(self, run: Run, report: RoundReport) -> None:
        """Hear that a round was completed. Its model is not evaluated yet."""

    def round(self, run: Run, report: RoundReport) -> None:
        """Hear a completed round's figures: of its model too, which arrive with the next round."""

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        """Hear that silos were lost in the round announced last; `left` silos remain."""

    def returned(self, run: Run, silos: list[str]) -> None:
        """Hear that silos that were lost took part in the newest round again."""

    def ended(self, run: Run) -> None:
        """Hear that the run is over, whatever its outcome."""


class Listeners(Listener):
    """Several listeners as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._all = list(listeners)

    def add_first(self, *listeners: Listener) -> None:
        """Add listeners that hear every event before the others."""
        self._all[:0] = listeners

    def stage(self, text: str) -> None:
        for one in self._all:
            one.stage(text)

    def planned(self, run: Run) -> None:
        for one in self._all:
            one.planned(run)

    def completed(self, run: Run, report: RoundReport) -> None:
        for one in self._all:
            one.completed(run, report)

    def round(self, run: Run, report: RoundReport) -> None:
        for one in self._all:
            one.round(run, report)

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        for one in self._all:
            one.lost(run, silos, left)

    def returned(self, run: Run, silos: list[str]) -> None:
        for one in self._all:
            one.returned(run, silos)

    def ended(self, run: Run) -> None:
        for one in self._all:
            one.ended(run)


class KeepsRounds(Listener):
    """A listener that appends each round to the run's log, from which the run can be resumed."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def completed(self, run: Run, report: RoundReport) -> None:
        if run.standing:
            run.unkept = self._log.round(report, run.standing) or run.unkept

    def round(self, run: Run, report: RoundReport) -> None:
        run.unkept = self._log.figures(report, figures(run, report)) or run.unkept


class TracksFigures(Listener):
    """A listener that sends each round's figures to MLflow."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def round(self, run: Run, report: RoundReport) -> None:
        self._tracker.log_round(report.round, figures(run, report))


class LogsEvents(Listener):
    """A listener that writes one JSON line for each event to the run's folder, for log collectors.

    Args:
        log: the driver's log, to which the federation writes too.
    """

    def __init__(self, run: Run, log: Log) -> None:
        self._run, self._log = run, log
        self._file: TextIO | None = None

    def stage(self, text: str) -> None:
        if self._file is None and self._run.folder.is_dir():
            with suppress(OSError):
                self._file = (self._run.folder / NAME).open("a", encoding="utf-8")
                self._log.to(self._file)

    def planned(self, run: Run) -> None:
        self._log.say("planned", rounds=run.rounds_planned, silos=list(run.inspections))

    def completed(self, run: Run, report: RoundReport) -> None:
        self._log.say(
            "round",
            round=report.round,
            attempt=report.attempt,
            silos=list(report.roster),
            seconds=round(report.seconds, 4),
            epsilon=dict(report.epsilon),
            bytes_up=report.up_bytes,
            bytes_down=report.down_bytes,
            model=report.model_digest,
        )

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        self._log.say("lost", round=run.announced, lost=silos, left=left)

    def returned(self, run: Run, silos: list[str]) -> None:
        self._log.say("returned", round=run.announced, returned=silos)

    def ended(self, run: Run) -> None:
        self._log.say("ended", status=run.status, said=run.ended or "")
        if self._file:
            with suppress(OSError):
                self._file.close()


class Measures(Listener):
    """A listener that exports the run's figures to Prometheus."""

    def __init__(self) -> None:
        self._meters: Meters | None = None
        self._retries = 0

    def planned(self, run: Run) -> None:
        from blindsum.infra.meters import Meters  # needs Ray to be connected

        self._retries = run.retries
        self._meters = Meters(run.job_file.job.name, run.name)

    def completed(self, run: Run, report: RoundReport) -> None:
        if self._meters is None:
            return
        left = {s: max(0.0, (run.budget(s) or 0.0) - e) for s, e in report.epsilon.items()}
        self._meters.round(
            1 + run.retries - self._retries,
            len(report.roster),
            report.up_bytes,
            report.down_bytes,
            {**report.phases, "round": report.seconds},
            left,
        )
        self._retries = run.retries

    def ended(self, run: Run) -> None:
        if self._meters:
            self._meters.close(run.retries - self._retries)


def figures(run: Run, report: RoundReport) -> dict[str, float]:
    """Return one round's figures under the names that MLflow shows.

    MLflow lists them in this order. What the job keeps constant is left out: it would be a flat
    chart.
    """
    metrics, job = report.metrics, run.job_file.job
    named = names.held_out_metrics(metrics.held_out) if metrics.held_out else {}
    if report.epsilon:
        left = [(run.budget(silo) or 0.0) - spent for silo, spent in report.epsilon.items()]
        named[names.EPSILON_SPENT] = max(report.epsilon.values())
        named[names.EPSILON_LEFT] = max(0.0, min(left))
        named |= {names.epsilon_of(silo): spent for silo, spent in report.epsilon.items()}
    if report.metrics_epsilon is not None:
        named[names.HELD_OUT_EPSILON] = report.metrics_epsilon
    named |= {names.SATURATED: metrics.saturated, names.LARGE: metrics.large}
    if job.moves_range:
        named[names.RANGE] = report.range
    if metrics.unclipped is not None and report.clip_norm is not None:
        named |= {names.UNCLIPPED: metrics.unclipped, names.CLIP_NORM: report.clip_norm}
    if job.least_silos < len(job.silos):
        named[names.SILOS] = len(report.roster)
    if report.attempt > 1:
        named[names.ATTEMPT] = report.attempt
    named |= {names.BYTES_UP: report.up_bytes, names.BYTES_DOWN: report.down_bytes}
    named[names.SECONDS_ROUND] = report.seconds
    named |= {names.seconds_of(phase): seconds for phase, seconds in report.phases.items()}
    return named

"""An observer that also keeps a run's log for machines and its figures for Prometheus."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from blindsum.pipelines.run.run import Observer, Run
from blindsum.platform.events import Log

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.infra.meters import Meters

NAME = "log.jsonl"
"""In the run's folder: what the driver saw, one event a line."""


class Watched:
    """Passes on what it is told.

    Args:
        log: the driver's, which the federation writes to as well.
    """

    def __init__(self, inner: Observer, run: Run, log: Log) -> None:
        self._inner, self._run, self._log = inner, run, log
        self._file: TextIO | None = None
        self._meters: Meters | None = None
        self._retries = 0

    def stage(self, text: str) -> None:
        if self._file is None and self._run.folder.is_dir():
            with suppress(OSError):
                self._file = (self._run.folder / NAME).open("a", encoding="utf-8")
                self._log.to(self._file)
        self._inner.stage(text)

    def planned(self, run: Run) -> None:
        from blindsum.infra.meters import Meters

        self._retries = run.retries
        self._meters = Meters(run.job_file.job.name, run.name)
        self._log.say("planned", rounds=run.rounds_planned, silos=list(run.inspections))
        self._inner.planned(run)

    def round(self, run: Run, report: RoundReport) -> None:
        if self._meters:
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
        self._inner.round(run, report)

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        self._log.say("lost", round=run.announced, lost=silos, left=left)
        self._inner.lost(run, silos, left)

    def end(self) -> None:
        """The run is over, however it went."""
        self._log.say("ended", status=self._run.status, said=self._run.ended)
        if self._meters:
            self._meters.close(self._run.retries - self._retries)
        if self._file:
            with suppress(OSError):
                self._file.close()


def figures(run: Run, report: RoundReport) -> dict[str, float]:
    """One round's figures as MLflow shows them."""
    metrics = report.metrics
    named = {
        "saturated_share": metrics.saturated,
        "large_share": metrics.large,
        "range": report.range,
        "attempt": report.attempt,
        "silos": len(report.roster),
        "bytes_up": report.up_bytes,
        "bytes_down": report.down_bytes,
        "seconds_round": report.seconds,
    }
    if metrics.held_out:
        named |= metrics.held_out.tracked()
    if report.metrics_epsilon is not None:
        named["metrics_epsilon_spent"] = report.metrics_epsilon
    if metrics.unclipped is not None and report.clip_norm is not None:
        named |= {"unclipped_share": metrics.unclipped, "clip_norm": report.clip_norm}
    named |= {f"seconds_{phase}": seconds for phase, seconds in report.phases.items()}
    for silo, spent in report.epsilon.items():
        named[f"epsilon_spent.{silo}"] = spent
        named[f"epsilon_left.{silo}"] = max(0.0, (run.budget(silo) or 0.0) - spent)
    if report.epsilon:
        named["epsilon_spent"] = max(report.epsilon.values())
    return named

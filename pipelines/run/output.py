"""The terminal's output of a run while it lasts, and before (`warnings`).

    at the end       a summary: `blindsum.pipelines.run.closing`    (stdout)
    on a terminal    each stage of the start, then live progress    (stderr)
    elsewhere        only warnings                                  (stderr)
    with --lines     a line for each stage and round                (stderr)
    with --json      no summary but one JSON object a line:
                     planned, round, end                            (stdout)

Errors go to stderr, one message each. No record and no key reaches this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress import (
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from blindsum.pipelines.run.listeners import Listener
from blindsum.pipelines.run.stages import Stages, show_stage
from blindsum.pipelines.show.console import console, emit, show_warnings, size
from blindsum.pipelines.show.progress import step_bar
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.job.paths import home_folder
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.sanity import job_warnings

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.actors.silo_messages import Inspection
    from blindsum.pipelines.run.run import Run


LASTING_LINES = 10
"""About as many rounds, evenly spread, leave a line on a terminal."""

_BETWEEN_S = 10.0
"""Seconds between two lines about progress within a stage, in a log."""


def run_warnings(run: Run) -> list[str]:
    """Return what a reader of a run must not overlook."""
    return warnings(run.job_file.job, run.inspections, run.spec.simulated)


def warnings(
    job: Job, inspections: Mapping[str, Inspection] | None = None, simulated: bool = False
) -> list[str]:
    """Return what a reader must not overlook.

    Args:
        inspections: the silos' inspections. A warning names the silos without an owner's file.
        simulated: whether all silos are threads of one process, where no owner could consent.
    """
    trained = job.model.is_scored  # what is odd for training is what statistics are to show
    found = [
        f"{name}: {text}"
        for name, one in (inspections or {}).items()
        for text in one.warnings
        if trained
    ]
    if trained and inspections and _nothing_to_score(inspections):
        found.append(
            "no silo can score any shared task: this run would spend its whole budget, and nobody "
            "would learn how good its model is"
        )
    if job.simulated:
        found.insert(0, job.simulated)
    open_ = [name for name, one in (inspections or {}).items() if not one.owned]
    if open_ and not simulated:
        found.append(
            f"owners' consent and lifetime limits are not enforced at {', '.join(open_)}: no "
            "owner's file there (blindsum silo init). This is right only for a simulation"
        )
    if job.privacy.noise == "none":
        found.append("no differential privacy: the model may reveal training records")
    elif not job.private:
        found.append(
            "privacy.test_seed is set: anyone can predict the noise and remove it. The model may "
            "reveal training records. For tests only"
        )
    if job.encryption.scheme == "none":
        found.append("no encryption: the aggregator sees every silo's update")
    return found + job_warnings(job)


def _nothing_to_score(inspections: Mapping[str, Inspection]) -> bool:
    from blindsum.platform.data.enough import NOTHING_TO_SCORE  # imports pyarrow

    return all(NOTHING_TO_SCORE in one.warnings for one in inspections.values())


class Progressing(Listener):
    """A listener that shows live progress to a person.

    Args:
        job: the job's name, by which the usual seconds of each stage are known.
    """

    def __init__(self, job: str = "") -> None:
        self._stages = Stages(job, home_folder(), show_stage)
        self._begin = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar = step_bar()
        self._task: TaskID | None = None
        self._live = Live(self._begin, console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def stage(self, text: str) -> None:
        if self._stages.enter(text):
            self._task = None
            for old in self._begin.task_ids:
                self._begin.remove_task(old)
            self._begin.add_task(self._stages.described(text), total=None)
            self._live.update(self._begin)
        else:
            said = self._stages.described(text)
            self._begin.update(self._begin.task_ids[-1], description=said)

    def planned(self, run: Run) -> None:
        self._stages.leave()
        job = run.job_file.job
        show_warnings(run_warnings(run))
        if run.rounds_planned < job.training.rounds:
            console.print(f"the budget covers {run.rounds_planned} of {job.training.rounds} rounds")
        self._task = self._bar.add_task("rounds", total=run.rounds_planned)
        self._live.update(self._bar)

    def round(self, run: Run, report: RoundReport) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=report.round)
        if report.round % max(1, run.rounds_planned // LASTING_LINES) == 0:
            console.print(_round_line(run, report), soft_wrap=True)
        self._live.update(Group(_progress_table(run, report), self._bar))

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        console.print(_lost_line(run, silos, left))

    def returned(self, run: Run, silos: list[str]) -> None:
        console.print(f"back in round {run.announced}: {', '.join(silos)}")

    def ended(self, run: Run) -> None:
        self._stages.leave()
        if self._begin.task_ids:
            self._begin.update(self._begin.task_ids[-1], description="ending")
        if run.status == "FINISHED":
            self._stages.keep()

    def close(self) -> None:
        """Remove the progress bar."""
        self._live.stop()


class Quiet(Listener):
    """A listener for output that is not a terminal: it shows only warnings until the end."""

    def planned(self, run: Run) -> None:
        show_warnings(run_warnings(run))

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        console.print(_lost_line(run, silos, left))

    def returned(self, run: Run, silos: list[str]) -> None:
        console.print(f"back in round {run.announced}: {', '.join(silos)}")

    def close(self) -> None:
        """Do nothing, because nothing is open."""


class Lines(Quiet):
    """A listener that prints a line for each stage and round, for a log that someone follows.

    Args:
        job: the job's name, by which the usual seconds of each stage are known.
    """

    def __init__(self, job: str = "") -> None:
        self._stages = Stages(job, home_folder(), show_stage)
        self._said_s = 0.0

    def stage(self, text: str) -> None:
        """Print the stage; its seconds follow when it ends. Print progress within it now and
        then."""
        if self._stages.enter(text):
            said = self._stages.described(f"{text} ...")
            console.print(said, soft_wrap=True)
            self._said_s = 0.0
        elif self._stages.seconds - self._said_s >= _BETWEEN_S:
            console.print(text, soft_wrap=True)
            self._said_s = self._stages.seconds

    def planned(self, run: Run) -> None:
        """End the last stage of the start, and print warnings."""
        self._stages.leave()
        super().planned(run)

    def ended(self, run: Run) -> None:
        """End the last stage, and keep the seconds of a run that finished."""
        self._stages.leave()
        if run.status == "FINISHED":
            self._stages.keep()

    def round(self, run: Run, report: RoundReport) -> None:
        """Print a line about a completed round."""
        found = report.metrics.held_out
        score = f"{found.line()}, " if found else ""
        console.print(
            f"round {report.round} of {run.rounds_planned}: {score}{_spent(report)}"
            f"{report.seconds:.2f} s"
        )


class JsonLines(Listener):
    """A listener that prints one JSON object a line on stdout, for machines."""

    def planned(self, run: Run) -> None:
        emit(
            "planned",
            run=run.name,
            rounds=run.rounds_planned,
            startup_s=round(run.startup_s, 3),
            warnings=run_warnings(run),
            silos={n: plan_figures(plan) for n, plan in run.plans.items()},
        )

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        emit("lost", round=run.announced, silos=silos, left=left)

    def returned(self, run: Run, silos: list[str]) -> None:
        emit("returned", round=run.announced, silos=silos)

    def round(self, run: Run, report: RoundReport) -> None:
        emit(
            "round",
            round=report.round,
            attempt=report.attempt,
            silos=list(report.roster),
            metrics=report.metrics.as_dict(),
            epsilon=dict(report.epsilon),
            up_bytes=report.up_bytes,
            down_bytes=report.down_bytes,
            seconds=round(report.seconds, 4),
            phases={k: round(v, 4) for k, v in report.phases.items()},
        )

    def close(self) -> None:
        """Do nothing, because nothing is open."""


Shown = Progressing | Quiet | Lines | JsonLines


def listener(as_json: bool, lines: bool = False, job: str = "") -> Shown:
    """Return the listener that suits where the output goes, for a run of a job of that name."""
    if as_json:
        return JsonLines()
    if lines:
        return Lines(job)
    return Progressing(job) if console.is_terminal else Quiet()


def _lost_line(run: Run, silos: list[str], left: int) -> Text:
    job = run.job_file.job
    when = f"in round {run.announced}" if run.announced else "before round 1"
    said = Text.assemble(
        (f"lost {when}:", "yellow"),
        f" {', '.join(silos)}; {left} of {len(job.silos)} silos remain (quorum {job.least_silos})",
    )
    if left < job.least_silos or (job.privacy.noise != "none" and job.privacy.metrics_epsilon):
        return said
    return said.append(
        ". Held-out figures stop until all are back: exact counts of fewer silos would "
        "reveal those of the lost one. With privacy.metrics_epsilon they continue."
    )


def _round_line(run: Run, report: RoundReport) -> str:
    """Return a round in a line that is shorter than that of --lines."""
    found, figures = report.metrics.held_out, ""
    if found:
        shown = [found.score, *([found.rare] if found.rare else [])]
        figures = "".join(f"{score.name} {score.written}, " for score in shown)
    return (
        f"round {report.round} of {run.rounds_planned}: {figures}{_spent(report)}"
        f"{report.seconds:.2f} s"
    )


def _spent(report: RoundReport) -> str:
    return f"epsilon {max(report.epsilon.values()):.3f}, " if report.epsilon else ""


def _progress_table(run: Run, report: RoundReport) -> Sheet:
    m = report.metrics.held_out
    # With the AUPRC where positives are rare, which the AUROC hides.
    scores = [m.score, *([m.rare] if m.rare else [])] if m else []
    names = [score.name for score in scores] or ["accuracy"]
    table = Sheet(
        "round", *names, "loss", "up", "down", "seconds", "epsilon spent (left)", text=True
    )
    epsilon = "  ".join(
        f"{silo} {spent:.2f} ({max(0.0, (run.budget(silo) or 0) - spent):.2f})"
        for silo, spent in report.epsilon.items()
    )
    table.add(
        str(report.round),
        *([score.short for score in scores] or [""]),
        f"{m.loss:.3f}" if m and isfinite(m.loss) else "",
        size(report.up_bytes),
        size(report.down_bytes),
        f"{report.seconds:.2f}",
        epsilon or "unbounded",
    )
    return table


def plan_figures(plan: Any) -> dict[str, float] | None:
    """Return a privacy plan as plain figures, or None without differential privacy."""
    return dict(vars(plan)) if plan else None

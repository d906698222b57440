"""The terminal's output of a run.

    on a terminal    progress while it runs, a summary at the end    (stderr)
    elsewhere        only the summary                                (stderr)
    with --lines     a line for each round                           (stderr)
    with --json      one JSON object a line: planned, round, end     (stdout)

Errors go to stderr, one message each. No record and no key reaches this module.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from blindsum.pipelines.run.listeners import Listener
from blindsum.pipelines.run.moving import ADVICE
from blindsum.pipelines.show.console import console, emit, show_warnings, size
from blindsum.platform.job.average_section import described
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import DEFAULT_RANGE
from blindsum.platform.privacy.releases import metrics_guarantee
from blindsum.platform.tracking.mlflow_uri import runs_page

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.actors.silo_messages import Inspection
    from blindsum.pipelines.run.run import Run
    from blindsum.platform.tracking.mlflow_run import RunLink


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 attempt", "2 attempts"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verb(count: int) -> str:
    """Return "was" or "were", for that many."""
    return "was" if count == 1 else "were"


def warnings(job: Job, inspections: Mapping[str, Inspection] | None = None) -> list[str]:
    """Return what a reader must not overlook.

    Args:
        inspections: the silos' inspections. A warning names the silos without an owner's file.
    """
    found = [
        f"{name}: {text}" for name, one in (inspections or {}).items() for text in one.warnings
    ]
    if open_ := [name for name, one in (inspections or {}).items() if not one.owned]:
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
    return found


class Progressing(Listener):
    """A listener that shows live progress to a person."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(self._bar, console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def stage(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def planned(self, run: Run) -> None:
        job = run.job_file.job
        show_warnings(warnings(job, run.inspections))
        if run.rounds_planned < job.training.rounds:
            console.print(f"the budget covers {run.rounds_planned} of {job.training.rounds} rounds")
        self._bar.update(self._task, description="rounds", total=run.rounds_planned)

    def round(self, run: Run, report: RoundReport) -> None:
        self._bar.update(self._task, completed=report.round)
        self._live.update(Group(_progress_table(run, report), self._bar))

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        console.print(_lost_line(run, silos, left))

    def returned(self, run: Run, silos: list[str]) -> None:
        console.print(f"back in round {run.announced}: {', '.join(silos)}")

    def close(self) -> None:
        """Remove the progress bar."""
        self._live.stop()


class Quiet(Listener):
    """A listener for output that is not a terminal: it shows only warnings until the end."""

    def planned(self, run: Run) -> None:
        show_warnings(warnings(run.job_file.job, run.inspections))

    def lost(self, run: Run, silos: list[str], left: int) -> None:
        console.print(_lost_line(run, silos, left))

    def returned(self, run: Run, silos: list[str]) -> None:
        console.print(f"back in round {run.announced}: {', '.join(silos)}")

    def close(self) -> None:
        """Do nothing, because nothing is open."""


class Lines(Quiet):
    """A listener that prints a line for each stage and round, for a log that someone follows."""

    def stage(self, text: str) -> None:
        """Print the stage."""
        console.print(text)

    def round(self, run: Run, report: RoundReport) -> None:
        """Print a line about a completed round."""
        found = report.metrics.held_out
        score = f"{found.line()}, " if found else ""
        spent = f"epsilon {max(report.epsilon.values()):.3f}, " if report.epsilon else ""
        console.print(
            f"round {report.round} of {run.rounds_planned}: {score}{spent}{report.seconds:.2f} s"
        )


class JsonLines(Listener):
    """A listener that prints one JSON object a line on stdout, for machines."""

    def planned(self, run: Run) -> None:
        job = run.job_file.job
        emit(
            "planned",
            run=run.name,
            rounds=run.rounds_planned,
            startup_s=round(run.startup_s, 3),
            warnings=warnings(job, run.inspections),
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


def listener(as_json: bool, lines: bool = False) -> Shown:
    """Return the listener that suits where the output goes."""
    if as_json:
        return JsonLines()
    if lines:
        return Lines()
    return Progressing() if console.is_terminal else Quiet()


def show_end(run: Run) -> None:
    """Print the closing summary: the result, where it is, and what to type next."""
    if run.link and run.status != "FINISHED":
        console.print(f"To resume: blindsum resume {quote(str(run.folder))}", soft_wrap=True)
    if not run.reports:
        return  # there is no result, and the error explains why
    job = run.job_file.job
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if run.reports:
        last = run.reports[-1]
        m, found = last.metrics, run.held_out()
        completed = f"{len(run.reports)} of {job.training.rounds} completed"
        table.add_row("rounds", f"{completed}; {run.ended}" if run.ended else completed)
        table.add_row("held out", _score_line(run))
        table.add_row("", f"these figures are {metrics_guarantee(job)}")
        if run.still_moving:
            table.add_row("", ADVICE)
        table.add_row("privacy", _privacy_line(run))
        if m.saturated > 1e-3:
            table.add_row(
                "",
                _cut_line(job, m.saturated, last.range),
            )
        if run.retries:
            table.add_row(
                "",
                f"{counted(run.retries, 'attempt')} failed and {verb(run.retries)} retried. Failed "
                "attempts count against the budget; the model contains only completed rounds.",
            )
        if run.lost:
            when = {n: f"in round {n}" if n else "before round 1" for n in run.lost.values()}
            table.add_row("lost", ", ".join(f"{s} {when[n]}" for s, n in run.lost.items()))
        if found and found[1].dropped and not found[1].deviation:
            dropped = counted(found[1].dropped, "molecule")
            table.add_row("", f"{dropped} could not be read and {verb(found[1].dropped)} dropped")
        up = sum(r.up_bytes for r in run.reports)
        down = sum(r.down_bytes for r in run.reports)
        table.add_row("traffic", f"{size(up)} up, {size(down)} down, over all silos")
    table.add_row("time", f"{run.seconds:.1f} s, including {run.startup_s:.1f} s of start-up")
    if run.saved:
        which = described(job.training.average)
        table.add_row("model", f"{run.saved.path} (after round {run.saved.round}; {which})")
    if run.link:
        table.add_row("MLflow", f"experiment {run.link.experiment}, run {run.link.run_id}")
    for name, inspection in run.inspections.items():
        if inspection.plan and run.reports and inspection.ledger:
            table.add_row(f"ledger {name}", inspection.ledger)
    console.print(table)
    show_warnings(warnings(job, run.inspections))
    if run.tracking_failure:
        console.print(f"[yellow]MLflow is incomplete:[/] {run.tracking_failure}")
    if run.link and run.reports:
        _show_where(run.link)


def _show_where(link: RunLink) -> None:
    """Print how to open the run's page in MLflow."""
    page = runs_page(link.uri, link.experiment_id)
    if page is None:
        return
    console.print("\nTo look at the run and compare it with others:")
    if not page.startswith(link.uri):
        beside = Path(sys.executable).with_name("mlflow")
        mlflow = "mlflow" if shutil.which("mlflow") or not beside.exists() else str(beside)
        command = f"  {mlflow} ui --backend-store-uri {quote(link.uri)}"
        console.print(Text(command), soft_wrap=True)
    console.print(Text(f"  {page}"), soft_wrap=True)


def _cut_line(job: Job, share: float, bound: float) -> str:
    """Return what to do about updates beyond the range, the likelier cause first."""
    rate, narrow = job.training.learning_rate, job.encryption.range
    if narrow is not None and narrow < DEFAULT_RANGE:
        mend = f"raise encryption.range ({narrow:g}), or lower training.learning_rate ({rate:g})"
    else:
        mend = (
            f"lower training.learning_rate ({rate:g}); only if updates should be that large, "
            "raise encryption.range"
        )
    return f"{share:.2%} of update values were cut at ±{bound:g}: {mend}"


def _lost_line(run: Run, silos: list[str], left: int) -> str:
    job = run.job_file.job
    when = f"in round {run.announced}" if run.announced else "before round 1"
    said = (
        f"[yellow]lost {when}:[/] {', '.join(silos)}; {left} of "
        f"{len(job.silos)} silos remain (quorum {job.least_silos})"
    )
    if left < job.least_silos or (job.privacy.noise != "none" and job.privacy.metrics_epsilon):
        return said
    return (
        f"{said}. Held-out figures stop until all are back: exact counts of fewer silos would "
        "reveal those of the lost one. With privacy.metrics_epsilon they continue."
    )


def _score_line(run: Run) -> str:
    found = run.held_out()
    if found is None:
        return "not evaluated yet (privacy.metrics_every)"
    round, m = found
    after = "" if round == len(run.reports) else f", after round {round}"
    return f"{m.detail()}{after}"


def _privacy_line(run: Run) -> str:
    total = run.epsilon()
    if not total:
        return "none: epsilon is unbounded"
    spent = {f"{silo} {epsilon:.3f} of {run.budget(silo):g}" for silo, epsilon in total.items()}
    figures = {(epsilon, run.budget(silo)) for silo, epsilon in total.items()}
    if len(figures) == 1:
        ((epsilon, budget),) = figures
        spent = {f"{epsilon:.3f} of {budget:g} at every silo"}
    plan = next(plan for plan in run.plans.values() if plan)
    metrics_epsilon = run.reports[-1].metrics_epsilon
    held_out = f"; held-out records {metrics_epsilon:.3f}" if metrics_epsilon else ""
    begun = ""
    if run.announced > len(run.reports):
        begun = f"; includes round {run.announced}, which was not completed"
    return (
        f"epsilon {', '.join(sorted(spent))}, at delta {plan.delta:g} "
        f"(per record, add or remove){begun}{held_out}"
    )


def _progress_table(run: Run, report: RoundReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    m = report.metrics.held_out
    score = m.score.name if m else "accuracy"
    for heading in ("round", score, "loss", "epsilon spent (left)", "up", "down", "seconds"):
        table.add_column(heading, justify="left" if "epsilon" in heading else "right")
    epsilon = "  ".join(
        f"{silo} {spent:.2f} ({max(0.0, (run.budget(silo) or 0) - spent):.2f})"
        for silo, spent in report.epsilon.items()
    )
    table.add_row(
        str(report.round),
        f"{m.score.value:.3f}" if m else "",
        f"{m.loss:.3f}" if m else "",
        epsilon or "unbounded",
        size(report.up_bytes),
        size(report.down_bytes),
        f"{report.seconds:.2f}",
    )
    return table


def plan_figures(plan: Any) -> dict[str, float] | None:
    """Return a privacy plan as plain figures, or None without differential privacy."""
    return dict(vars(plan)) if plan else None

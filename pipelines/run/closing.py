"""The closing summary of a run, on stdout: the result, what it cost, and where it is.

What needs attention and what to type next go to stderr. No record and no key reaches this module.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.text import Text

from blindsum.pipelines.run.coefficients import about, table_of
from blindsum.pipelines.run.moving import ADVICE
from blindsum.pipelines.run.output import run_warnings
from blindsum.pipelines.show.console import (
    console,
    show_incomplete,
    show_result,
    show_warnings,
    size,
)
from blindsum.pipelines.show.table import Pairs
from blindsum.platform.job.average_section import described
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import DEFAULT_RANGE
from blindsum.platform.privacy.releases import metrics_guarantee
from blindsum.platform.tracking.mlflow_uri import runs_page

if TYPE_CHECKING:
    from blindsum.pipelines.run.run import Run
    from blindsum.platform.tracking.mlflow_run import RunLink


def show_end(run: Run) -> None:
    """Print the closing summary on stdout; on stderr warnings, and what to type next."""
    if run.link and run.status != "FINISHED":
        command = f"blindsum resume {quote(str(run.folder))}"
        console.print(f"To resume: {command}", soft_wrap=True)
    if not run.reports:
        return  # there is no result, and the error explains why
    if run.statistics:
        from blindsum.pipelines.statistics.table import tables

        for one in tables(run.statistics):
            show_result(one)
        show_result("")
    table = Pairs()
    _add_rounds(table, run)
    if simulated := run.job_file.job.simulated:
        table.add("silos", simulated)
    table.add("time", f"{run.seconds:.1f} s, including {run.startup_s:.1f} s of start-up")
    if run.saved and run.statistics:
        table.add("statistics", f"{run.saved.path}, and as a page beside it")
    elif run.saved:
        which = described(run.job_file.job.training.average)
        table.add("model", f"{run.saved.path} (after round {run.saved.round}; {which})")
    if run.link:
        table.add("MLflow", f"experiment {run.link.experiment}, run {run.link.run_id}")
    for name, inspection in run.inspections.items():
        if inspection.plan and inspection.ledger:
            table.add(f"ledger {name}", inspection.ledger)
    show_result(table)
    if run.inference:
        show_result("", table_of(run.inference), about(run.inference))
    show_warnings(run_warnings(run))
    if run.tracking_failure:
        show_incomplete(run.tracking_failure)
    if run.link:
        _show_where(run.link)


def _add_rounds(table: Pairs, run: Run) -> None:
    """Add what the completed rounds reached and cost."""
    job = run.job_file.job
    last = run.reports[-1]
    m, found = last.metrics, run.held_out()
    completed = f"{len(run.reports)} of {job.training.rounds} completed"
    table.add("rounds", f"{completed}; {run.ended}" if run.ended else completed)
    if job.model.is_scored:
        table.add("held out", _score_line(run))
        table.add("", f"these figures are {metrics_guarantee(job)}")
    if run.still_moving:
        table.add("", ADVICE)
    table.add("privacy", _privacy_line(run))
    if m.saturated > 1e-3:
        table.add("", _cut_line(job, m.saturated, last.range))
    if run.retries:
        table.add(
            "",
            f"{counted(run.retries, 'attempt')} failed and {verb(run.retries)} retried. Failed "
            "attempts count against the budget; the model contains only completed rounds.",
        )
    if run.lost:
        when = {n: f"in round {n}" if n else "before round 1" for n in run.lost.values()}
        table.add("lost", ", ".join(f"{s} {when[n]}" for s, n in run.lost.items()))
    if found and found[1].dropped and not found[1].deviation:
        table.add(
            "dropped",
            f"{found[1].dropped} records or single labels, as data.unparsable, data.unlabelled "
            "and data.qualifiers say; each silo has the list of its own",
        )
    up = sum(r.up_bytes for r in run.reports)
    down = sum(r.down_bytes for r in run.reports)
    table.add("traffic", f"{size(up)} up, {size(down)} down, over all silos")


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


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 attempt", "2 attempts"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verb(count: int) -> str:
    """Return "was" or "were", for that many."""
    return "was" if count == 1 else "were"

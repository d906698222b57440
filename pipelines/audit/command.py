"""Run `blindsum audit`: print its figures, write its report and record it in MLflow."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from pathlib import Path

import numpy as np
from rich.text import Text

from blindsum.pipelines.audit.evidence import Figure
from blindsum.pipelines.audit.outcome import FULL, QUICK, Audit, exceeded, gate_key, keep_private
from blindsum.pipelines.audit.report.page import ROWS, as_page, interval_of, shown, worst
from blindsum.pipelines.audit.report.records import as_private_page
from blindsum.pipelines.audit.run import audit
from blindsum.pipelines.run.folders import runs_folder
from blindsum.pipelines.show.console import emit, show_incomplete, show_result
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import state_folder
from blindsum.platform.tracking.mlflow_run import Tracker

OTHERS = (
    "implementation.canaries.",
    "protocol.accepted_forgeries",
    "server.planted_weights_accepted",
)
"""Beginnings of the gate's figures that have no row in the matrix."""


def run_audit(
    job_file: JobFile,
    silo: str | None,
    quick: bool,
    fail_on: list[str],
    as_json: bool,
    mlflow: bool = False,
) -> None:
    """Audit one silo, write the report, and raise an error if a figure exceeds its limit.

    Args:
        silo: the silo to audit; by default the first of the job's roster.
        fail_on: limits, each as FIGURE=NUMBER.
        mlflow: also store report and figures in the job's MLflow, where others may read them.

    Raises:
        BlindsumError: the audit could not run, or a figure exceeds its limit in `fail_on`.
    """
    limits = dict(_limit(text) for text in fail_on)
    name = silo or job_file.job.roster[0]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    run = f"audit-{job_file.job.name}-{name}-{stamp}-{secrets.token_hex(3)}"
    folder = runs_folder(job_file) / run
    private = state_folder(job_file.silo(name)) / "audit"
    report, figures = folder / "report.html", folder / "audit.json"
    with progress("starting", as_json) as shown:
        found = audit(job_file, name, QUICK if quick else FULL, shown)
        shown.stage("writing the report")
        try:
            if np.isfinite(found.risks).any():
                keep_private(found, private)
            _write(private / "records.html", as_private_page(found))
            _write(report, as_page(found, run))
            _write(figures, json.dumps(found.as_dict(), indent=1))
        except OSError as error:
            raise BlindsumError(
                f"the audit's files could not be written to {folder} and {private}: "
                f"{error.strerror}",
                "Free some space, then run the audit again: trained shadow models are reused.",
            ) from None
        if mlflow:
            shown.stage("storing the report in MLflow")
        failure = _record(job_file, run, found, report, figures) if mlflow else None
    if as_json:
        emit("audit", run=run, report=str(report), gate=found.gate())
    else:
        _show(found, report, private)
    if failure:
        show_incomplete(failure)
    if passed := exceeded(found, limits):
        raise BlindsumError(
            f"audit failed: {len(passed)} of {len(limits)} limits exceeded: {'; '.join(passed)}"
        )


def _record(job_file: JobFile, run: str, found: Audit, report: Path, figures: Path) -> str | None:
    """Store the shareable part in the job's MLflow; return what could not be stored, or None."""
    tracker = Tracker(job_file, run, command="audit")
    tracker.ready()
    tracker.log_round(0, {_metric(key): value for key, value in found.gate().items()})
    tracker.log_file(report)
    tracker.log_file(figures)
    return tracker.finish("FINISHED", "all attacks", {"blindsum.audit": found.own})


def _limit(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise JobError(
            f"--fail-on {text!r} is not a limit",
            'Write FIGURE=NUMBER: a figure under "gate" in audit.json, and a finite number.',
        )
    known = {gate_key(f"{row.adversary}.{row.attack}.") for row in ROWS} | set(OTHERS)
    if not any(key.startswith(f"{one}") for one in known):
        raise JobError(
            f"--fail-on names the unknown figure {key!r}",
            f"A figure's name begins with one of: {', '.join(sorted(known))}",
        )
    return key, limit


def _metric(key: str) -> str:
    """Return the figure's MLflow key, with characters that MLflow rejects replaced by "_". Each
    adversary's figures form a section of MLflow's charts."""
    key = key.replace(".", "/", 1)
    return "audit/" + "".join(c if c.isalnum() or c in "_-./ " else "_" for c in key)


def _write(path: Path, content: str) -> None:
    """Write a file that only the owner can read (mode 0600), until the owner shares it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    opened = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "w", encoding="utf-8") as file:
        file.write(content)


def _cell(figure: Figure) -> str:
    """Return a figure as the page has it, with words for the page's colours."""
    verdict = (
        ", BEATS guessing" if figure.above_floor else ", may be chance" if figure.undecided else ""
    )
    inside = [
        *([interval_of(figure)] if interval_of(figure) else []),
        *([f"guessing: {shown(figure, figure.floor)}"] if figure.floor is not None else []),
    ]
    return (
        f"{shown(figure, figure.value)}" + (f" ({'; '.join(inside)})" if inside else "") + verdict
    )


def _show(found: Audit, report: Path, private: Path) -> None:
    table = Sheet(
        "adversary",
        "attack",
        "figure",
        "none",
        "privacy",
        "encryption",
        "both",
        title=f"audit of silo {found.silo}; in parentheses: 95 % interval, and the figure that "
        "guessing reaches",
    )
    for row in ROWS:
        cells = [
            worst(found.findings.evidence, row, d) for d in ("none", "dp", "encrypted", "both")
        ]
        if any(cells):
            table.add(
                row.adversary,
                row.attack,
                row.figure,
                *(_cell(c) if c else "" for c in cells),
            )
    show_result(table)
    for name, views in found.bounds.items():
        bounds = ", ".join(
            f"{view} {bound.epsilon:.2f} (if the mechanism is Gaussian: {bound.gaussian:.2f})"
            for view, bound in views.items()
        )
        claimed = f" (claimed {found.plan.epsilon:g})" if name == "as planned" else ""
        show_result(f"lower bound on epsilon, {name}{claimed}: {bounds}")
    accepted = [name for name, refusal in found.refusals.items() if not refusal]
    show_result(
        Text.assemble(("forged sums accepted:", "bold red"), f" {', '.join(accepted)}")
        if accepted
        else f"forged sums: all {len(found.refusals)} refused"
    )
    if not found.planted:
        warning = "planted weights would be accepted:", "bold red"
        why = " this machine does not require its owner's approval of the job"
        show_result(Text.assemble(warning, why))
    for text in found.findings.not_tested:
        show_result(f"not tested: {text}")
    show_result(f"report: {report} ({found.seconds:.0f} s)", soft_wrap=True)
    show_result(f"private, only for the silo: {private}", soft_wrap=True)

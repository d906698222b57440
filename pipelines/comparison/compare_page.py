"""Show a comparison in the terminal, as a self-contained HTML page, and in MLflow."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.comparison.compare import (
    ARMS,
    SCORES,
    Comparison,
    Group,
    arm_of,
    compare,
    label,
)
from blindsum.pipelines.comparison.own_gains import gains_by_task
from blindsum.pipelines.comparison.own_mlflow import keep_by_task
from blindsum.pipelines.comparison.verdicts import notes
from blindsum.pipelines.show.console import (
    console,
    emit,
    show_incomplete,
    show_result,
    show_warnings,
    size,
)
from blindsum.pipelines.show.page import PAGE, embedded
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import state_folder
from blindsum.platform.tracking.mlflow_run import Tracker
from blindsum.platform.tracking.mlflow_uri import sqlite_uri

COLOURS = {"local": "#8a8a8a", "federated": "#2c6fbb", "pooled": "#d1701f"}
NAMED = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "auprc_at_fixed_rate": "AUPRC at 0.1",
    "calibration_error": "calibration error",
    "r2": "R2",
    "rmse": "RMSE",
    "loss": "loss",
    "accuracy": "accuracy",
}
Gains = Mapping[str, Mapping[str, float]]


def run_compare(
    job_file: JobFile,
    experiment: str | None,
    names: Sequence[str],
    silo: str | None,
    page: Path | None,
    mlflow: bool,
    as_json: bool,
) -> None:
    """Print a comparison and write its page.

    Raises:
        BlindsumError: there is nothing to compare, or the page cannot be written.
    """
    with progress("reading runs from MLflow", as_json) as shown:
        comparison = compare(job_file, experiment, names)
        gains = gains_by_task(job_file, silo, comparison) if silo else None
        own_mlflow = None
        if silo:
            trials = [*comparison.trials, *(t for t in comparison.alone if t.silo == silo)]
            state = state_folder(job_file.silo(silo))
            shown.stage("storing figures by task in the silo's own MLflow")
            own_mlflow = keep_by_task(state, comparison.experiment, trials)
        if gains and mlflow:
            raise JobError(
                "gains by task are private to the silo and do not go to MLflow",
                "Leave out --mlflow or --silo.",
            )
        own = f"{comparison.experiment}-{silo}" if silo else comparison.experiment
        path = page or job_file.folder / f"compare-{own}.html"
        shown.stage("drawing the page")
        try:
            write(as_page(comparison, gains), path)
        except OSError as error:
            raise BlindsumError(
                f"the page cannot be written to {path}: {error.strerror}",
                "Choose another path with --page.",
            ) from None
        if mlflow:
            shown.stage("storing the page in MLflow")
        failure = _stored(job_file, comparison, path) if mlflow else None
    if as_json:
        emit(
            "compare",
            page=str(path),
            groups=[asdict(group) for group in comparison.groups],
            alone=[asdict(trial) for trial in comparison.alone],
            diverged=[trial.name for trial in comparison.diverged],
            stopped=[trial.name for trial in comparison.stopped],
            notes=notes(comparison),
        )
        return
    show(comparison)
    console.print(f"page: {path}", soft_wrap=True)
    if own_mlflow:
        uri = sqlite_uri(own_mlflow)
        console.print(f"figures by task, private to {silo}: {uri}", soft_wrap=True)
    if failure:
        show_incomplete(failure)


def _stored(job_file: JobFile, comparison: Comparison, page: Path) -> str | None:
    """Store the page in the job's MLflow; return what could not be stored, or None."""
    name = f"compare-{comparison.experiment}"
    tracker = Tracker(job_file, name, {"blindsum.compare": "page"}, command="compare")
    tracker.ready()
    tracker.log_file(page)
    return tracker.finish("FINISHED", f"{len(comparison.trials)} runs", {})


def show(comparison: Comparison) -> None:
    """Print the groups as a table on stdout, and what it shows in words."""
    head, rows = _rows(comparison)
    table = Sheet(*head, title=f"experiment {comparison.experiment}")
    for row in rows:
        table.add(*row)
    if rows:
        show_result(table)
    for note in notes(comparison):
        show_result(f"\n{note}")
    if comparison.differing:
        names = ", ".join(comparison.differing)
        show_warnings([f"these runs differ in more than seed, privacy and encryption: {names}"])


def as_page(comparison: Comparison, gains: Gains | None = None) -> str:
    """Return the comparison as one HTML page.

    Args:
        gains: a silo's gains by group and task, which make the page private to the silo.
    """
    head, rows = _rows(comparison)
    parts = [
        f"<h1>{html.escape(comparison.experiment)}</h1>",
        (
            f"<p>{len(comparison.trials)} finished runs. Scores are "
            f"{SCORES[comparison.metric][0]} on held-out records. Gains are measured from each "
            "silo training alone with the same seeds, without privacy where such runs exist.</p>"
        ),
        _table(head, rows),
        *(f"<p>{html.escape(note)}</p>" for note in notes(comparison)),
        "<h2>Score against epsilon</h2>",
        embedded(_score_picture(comparison)),
        "<h2>All figures</h2>",
        _table(*_figure_rows(comparison)),
    ]
    if comparison.differing:
        names = html.escape(", ".join(comparison.differing))
        parts.insert(
            2,
            "<p class=note>These runs differ in more than seed, privacy and encryption: "
            f"{names}</p>",
        )
    if gains:
        parts += [
            "<h2>Gains by task</h2>",
            "<p class=note>Private: this section shows one silo's own tasks.</p>",
            embedded(_gains_picture(gains, SCORES[comparison.metric][0])),
            _table(*_gain_rows(gains)),
        ]
    return PAGE.format(title=html.escape(comparison.experiment), body="\n".join(parts))


def write(page: str, path: Path) -> None:
    """Write the page so that only its owner can read it (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "w", encoding="utf-8") as file:
        file.write(page)


def _rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head = [
        "arm",
        "epsilon",
        SCORES[comparison.metric][0],
        "runs",
        "gain over each silo alone",
        "relative gain",
        "share of gap closed",
        "sent per round",
        "seconds per round",
    ]
    return head, [_row(group) for group in comparison.groups]


def _row(group: Group) -> list[str]:
    figures = group.figures
    sent = figures.get("bytes_up", 0.0) + figures.get("bytes_down", 0.0)
    return [
        arm_of(group.key),
        "none" if group.epsilon is None else f"{group.epsilon:g} ({group.mechanism})",
        group.score.written(),
        str(group.score.count),
        group.gain.written(signed=True) if group.gain else "",
        "" if group.relative is None else f"{group.relative:+.1%}",
        "" if group.of_gap is None else f"{group.of_gap:+.1%}",
        size(sent) if sent else "",
        f"{figures['seconds_round']:.2f}" if "seconds_round" in figures else "",
    ]


def _figure_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    names = [n for n in NAMED if any(n in g.figures for g in comparison.groups)]
    rows = [
        [
            label(g.key),
            *(f"{g.figures[n]:.3f}" if n in g.figures else "" for n in names),
        ]
        for g in comparison.groups
    ]
    return ["arm", *(NAMED[n] for n in names)], rows


def _gain_rows(gains: Gains) -> tuple[list[str], list[list[str]]]:
    tasks = list(dict.fromkeys(task for found in gains.values() for task in found))
    rows = [
        [task, *(f"{found[task]:+.3f}" if task in found else "" for found in gains.values())]
        for task in tasks
    ]
    return ["task", *gains], rows


def _score_picture(comparison: Comparison) -> Picture:
    """Plot scores against epsilon, with groups without privacy at the right edge."""
    picture = Picture(figsize=(7.0, 3.6), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    epsilons = sorted({g.epsilon for g in comparison.groups if g.epsilon is not None})
    places = {epsilon: i for i, epsilon in enumerate([*epsilons, None])}
    arms = list(dict.fromkeys(g.arm for g in comparison.groups))
    for shift, arm in enumerate(arms):
        own = [g for g in comparison.groups if g.arm == arm]
        x = [places[g.epsilon] + 0.12 * (shift - (len(arms) - 1) / 2) for g in own]
        axes.errorbar(
            x,
            [g.score.mean for g in own],
            _reach(own),
            marker="o",
            capsize=3,
            linestyle="none",
            color=COLOURS.get(arm, "#2b2b2b"),
            label=ARMS.get(arm, arm),
        )
    axes.set_xticks(list(places.values()), [*(f"{e:g}" for e in epsilons), "none"])
    axes.set(xlabel="epsilon", ylabel=f"held-out {SCORES[comparison.metric][0]}")
    axes.set_xlim(-0.5, len(places) - 0.5)
    _plain(axes)
    return picture


def _reach(groups: Sequence[Group]) -> list[list[float]]:
    """Return the distances from each score down and up to the ends of its interval."""
    ends = [(g.score.mean, g.score.interval) for g in groups]
    return [
        [mean - found.low if found else 0.0 for mean, found in ends],
        [found.high - mean if found else 0.0 for mean, found in ends],
    ]


def _gains_picture(gains: Gains, metric: str) -> Picture:
    """Plot the share of tasks whose gain is at most a given value (ECDF)."""
    picture = Picture(figsize=(7.0, 3.4), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    for group, found in gains.items():
        axes.ecdf(np.array(list(found.values())), label=f"{group} ({len(found)} tasks)")
    axes.axvline(0.0, color="#8a8a8a", linestyle=":")
    axes.set(xlabel=f"gain in {metric.removeprefix('mean ')} over alone", ylabel="share of tasks")
    _plain(axes)
    return picture


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>" for row in rows
    )
    return f"<div class=wide><table><tr>{cells}</tr>{body}</table></div>"

"""Show a comparison in the terminal, as a self-contained HTML page, and in MLflow."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.comparison.boards_page import board_rows, boards_section
from blindsum.pipelines.comparison.compare import (
    ARMS,
    SCORES,
    Comparison,
    Group,
    arm_of,
    compare,
    label,
)
from blindsum.pipelines.comparison.gains_page import as_csv, gains_section, medians, middle_rows
from blindsum.pipelines.comparison.leaderboards import leaderboards
from blindsum.pipelines.comparison.own_gains import Gains, gains_by_task
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
from blindsum.pipelines.show.page import PAGE, embedded, table
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
    "conformal_efficiency": "conformal efficiency",
    "conformal_empty": "empty sets",
    "coverage_of_positives": "coverage of positives",
    "coverage_of_negatives": "coverage of negatives",
    "enrichment_1_percent": "enrichment at 1 %",
    "enrichment_5_percent": "enrichment at 5 %",
    "bedroc": "BEDROC",
    "calibration_error": "calibration error",
    "r2": "R2",
    "rmse": "RMSE",
    "loss": "loss",
    "accuracy": "accuracy",
}


def run_compare(
    job_file: JobFile,
    experiment: str | None,
    names: Sequence[str],
    silos: Sequence[str],
    page: Path | None,
    mlflow: bool,
    as_json: bool,
) -> None:
    """Print a comparison and write its page.

    Args:
        silos: whose gains by task to add, from their state folders on this machine.

    Raises:
        BlindsumError: there is nothing to compare, or the page cannot be written.
    """
    if silos and mlflow:
        raise JobError(
            "gains by task are private to the silo and do not go to MLflow",
            "Leave out --mlflow or --silo.",
        )
    with progress("reading runs from MLflow", as_json) as shown:
        comparison = compare(job_file, experiment, names)
        gains = gains_by_task(job_file, silos, comparison) if silos else None
        if silos:
            shown.stage("storing figures by task in the silo's own MLflow")
        own_mlflow = _kept_by_silos(job_file, silos, comparison)
        path = page or job_file.folder / f"compare-{'-'.join([comparison.experiment, *silos])}.html"
        shown.stage("drawing the page")
        of_tasks = path.with_suffix(".csv")
        try:
            write(as_page(comparison, gains, of_tasks.name), path)
            if gains:
                write(as_csv(gains), of_tasks)
        except OSError as error:
            raise BlindsumError(
                f"the page cannot be written to {path}: {error.strerror}",
                "Choose another path with --page.",
            ) from None
        if mlflow:
            shown.stage("storing the page in MLflow")
        failure = _stored(job_file, comparison, path) if mlflow else None
    if as_json:
        _emit(comparison, gains, path)
        return
    show(comparison, gains)
    console.print(f"page: {path}", soft_wrap=True)
    if gains:
        console.print(f"gains by task, private: {of_tasks}", soft_wrap=True)
    for silo, kept in own_mlflow.items():
        uri = sqlite_uri(kept)
        console.print(f"figures by task, private to {silo}: {uri}", soft_wrap=True)
    if failure:
        show_incomplete(failure)


def _kept_by_silos(
    job_file: JobFile, silos: Sequence[str], comparison: Comparison
) -> dict[str, Path]:
    """Bring silos' own MLflows up to date; return their files, where there is something to keep."""
    found = {}
    for silo in silos:
        trials = [*comparison.trials, *(t for t in comparison.alone if t.silo == silo)]
        kept = keep_by_task(state_folder(job_file.silo(silo)), comparison.experiment, trials)
        if kept:
            found[silo] = kept
    return found


def _emit(comparison: Comparison, gains: Gains | None, page: Path) -> None:
    emit(
        "compare",
        page=str(page),
        groups=[asdict(group) for group in comparison.groups],
        alone=[asdict(trial) for trial in comparison.alone],
        diverged=[trial.name for trial in comparison.diverged],
        stopped=[trial.name for trial in comparison.stopped],
        notes=notes(comparison),
        leaderboards={
            group or "all tasks": [asdict(place) for place in places]
            for group, places in leaderboards(comparison).items()
        },
        **({"gains": medians(gains)} if gains else {}),
    )


def _stored(job_file: JobFile, comparison: Comparison, page: Path) -> str | None:
    """Store the page in the job's MLflow; return what could not be stored, or None."""
    name = f"compare-{comparison.experiment}"
    tracker = Tracker(job_file, name, {"blindsum.compare": "page"}, command="compare")
    tracker.ready()
    tracker.log_file(page)
    return tracker.finish("FINISHED", f"{len(comparison.trials)} runs", {})


def show(comparison: Comparison, gains: Gains | None = None) -> None:
    """Print the groups as a table on stdout, what it shows in words, leaderboards of groups of
    tasks, and median gains by task."""
    head, rows = _rows(comparison)
    if rows:
        _print(f"experiment {comparison.experiment}", head, rows)
    for note in notes(comparison):
        show_result(f"\n{note}")
    for group, places in leaderboards(comparison).items():
        if group:
            _print(f"\ntasks of group {group}", *board_rows(places))
    if gains:
        _print("\ngains by task over the silo alone, private", *middle_rows(gains))
    if comparison.differing:
        names = ", ".join(comparison.differing)
        show_warnings([f"these runs differ in more than seed, privacy and encryption: {names}"])


def _print(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    sheet = Sheet(*head, title=title)
    for row in rows:
        sheet.add(*row)
    show_result(sheet)


def as_page(comparison: Comparison, gains: Gains | None = None, csv_name: str = "") -> str:
    """Return the comparison as one HTML page.

    Args:
        gains: silos' gains by task, which make the page private to these silos.
        csv_name: of the file that has all gains.
    """
    head, rows = _rows(comparison)
    parts = [
        f"<h1>{html.escape(comparison.experiment)}</h1>",
        (
            f"<p>{len(comparison.trials)} finished runs. Scores are "
            f"{SCORES[comparison.metric][0]} on held-out records. Gains are measured from each "
            "silo training alone with the same seeds, without privacy where such runs exist.</p>"
        ),
        table(head, rows),
        *(f"<p>{html.escape(note)}</p>" for note in notes(comparison)),
        "<h2>Score against epsilon</h2>",
        embedded(_score_picture(comparison)),
        *boards_section(comparison),
        "<h2>All figures</h2>",
        table(*_figure_rows(comparison)),
    ]
    if comparison.differing:
        names = html.escape(", ".join(comparison.differing))
        parts.insert(
            2,
            "<p class=note>These runs differ in more than seed, privacy and encryption: "
            f"{names}</p>",
        )
    if gains:
        parts += gains_section(gains, csv_name)
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


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)

"""The parts of a comparison's page that show silos' gains by task. Private to these silos."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.comparison.own_gains import FIGURES, Gains, TaskGain, middle
from blindsum.pipelines.show.page import embedded, table

MOST_ROWS = 200
"""The most silo-task pairs in the page's table; the CSV beside the page has all."""

_LINES = ("#2c6fbb", "#d1701f", "#3a8a4d", "#8a5aa8", "#b3261e", "#57606a")
NO_GROUP = "no group"


def gains_section(gains: Gains, csv_name: str) -> list[str]:
    """Return the section's parts as HTML.

    Args:
        csv_name: of the file that has all gains.
    """
    shown = _shown(gains)
    private = (
        "<p class=note>Private: this section shows silos' own tasks. A gain above 0 is better than "
        "the silo alone with the same seed, for calibration error and RMSE too. All gains: "
        f"{html.escape(csv_name)}.</p>"
    )
    explained = (
        "<p>Medians have the interval of the sign test, for the choice of the tasks. Better and "
        "worse are tasks whose own interval does not reach 0; both models err on the same held-out "
        "records, so that these are rather too few.</p>"
    )
    parts = ["<h2>Gains by task</h2>", private, table(*middle_rows(gains)), explained]
    if shown:
        parts.append(embedded(_ecdf(gains, shown)))
    if shown and any(one.group for own in gains.values() for one in own):
        parts += ["<h2>Gains by group of tasks</h2>", embedded(_boxes(gains, shown))]
        parts += [table(*_group_rows(gains, shown))]
    return [*parts, "<h2>Gains of each task</h2>", *_of_tasks(gains, shown)]


def middle_rows(gains: Gains) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the median gain of each group of runs in each figure."""
    rows = []
    for name, own in gains.items():
        for figure, words in FIGURES.items():
            if of := middle(own, figure):
                pairs = str(of.median.count)
                median = of.median.written(signed=True)
                rows.append([name, words, median, pairs, str(of.better), str(of.worse)])
    return ["runs", "figure", "median gain", "tasks", "better", "worse"], rows


def medians(gains: Gains) -> list[dict[str, object]]:
    """Return the median gain of each group of runs in each figure, for JSON."""
    return [
        {"runs": name, "figure": figure, **asdict(of)}
        for name, own in gains.items()
        for figure in FIGURES
        if (of := middle(own, figure))
    ]


def as_csv(gains: Gains) -> str:
    """Return every gain of every silo-task pair."""
    text = io.StringIO()
    ends = [name for figure in FIGURES for name in (figure, f"{figure}_low", f"{figure}_high")]
    writer = csv.DictWriter(text, ["runs", "silo", "task", "group", "seeds", *ends])
    writer.writeheader()
    for name, own in gains.items():
        for one in own:
            row: dict[str, object] = {
                "runs": name,
                "silo": one.silo,
                "task": one.task,
                "group": one.group,
                "seeds": max(gain.count for gain in one.gains.values()) if one.gains else 0,
            }
            for figure, gain in one.gains.items():
                row |= {figure: _digits(gain.mean)}
                row |= {f"{figure}_low": _digits(gain.low), f"{figure}_high": _digits(gain.high)}
            writer.writerow(row)
    return text.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _shown(gains: Gains) -> list[str]:
    """Return the figures of pictures and of the tables by group and task."""
    has = {figure for own in gains.values() for one in own for figure in one.gains}
    return [figure for figure in ("auroc", "conformal_efficiency", "r2") if figure in has]


def _values(own: Sequence[TaskGain], figure: str) -> list[float]:
    return [one.gains[figure].mean for one in own if figure in one.gains]


def _ecdf(gains: Gains, shown: Sequence[str]) -> Picture:
    """Plot the share of tasks whose gain is at most a given value."""
    picture, many = _picture(len(shown), 3.4)
    for axes, figure in zip(many, shown, strict=True):
        for colour, (name, own) in zip(_colours(gains), gains.items(), strict=True):
            values = _values(own, figure)
            if values:
                axes.ecdf(np.array(values), label=name, color=colour)
        axes.axvline(0.0, color="#8a8a8a", linestyle=":")
        axes.set(xlabel=f"gain in {FIGURES[figure]} over alone", ylabel="share of tasks")
    _legend(picture, many)
    return picture


def _boxes(gains: Gains, shown: Sequence[str]) -> Picture:
    """Plot the gains of each group of tasks: quartiles, and every task as a dot."""
    groups = _groups(gains)
    height = 0.9 + 0.34 * len(groups) * len(gains) + 0.25 * len(gains)
    picture, many = _picture(len(shown), height)
    random = np.random.default_rng(0)
    step = 0.8 / len(gains)
    for axes, figure in zip(many, shown, strict=True):
        for i, (colour, (name, own)) in enumerate(zip(_colours(gains), gains.items(), strict=True)):
            for place, group in enumerate(groups):
                values = _values([one for one in own if (one.group or NO_GROUP) == group], figure)
                if not values:
                    continue
                at = place - 0.4 + step * (i + 0.5)
                axes.boxplot(
                    values,
                    positions=[at],
                    widths=0.8 * step,
                    orientation="horizontal",
                    showfliers=False,
                    manage_ticks=False,
                    medianprops={"color": colour, "linewidth": 2},
                    boxprops={"color": colour},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                )
                spread = at + random.uniform(-0.25, 0.25, len(values)) * step
                axes.plot(values, spread, ".", color=colour, alpha=0.5, markersize=4)
            axes.plot([], [], color=colour, label=name)
        axes.axvline(0.0, color="#8a8a8a", linestyle=":")
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set(xlabel=f"gain in {FIGURES[figure]} over alone")
    for axes in many[1:]:
        axes.set_yticklabels([])
    _legend(picture, many)
    return picture


def _picture(panels: int, height: float) -> tuple[Picture, list[Axes]]:
    picture = Picture(figsize=(5.0 * max(panels, 1), height), layout="constrained")
    FigureCanvasAgg(picture)
    many = list(np.atleast_1d(picture.subplots(1, max(panels, 1)))) if panels else []
    return picture, many


def _legend(picture: Picture, many: Sequence[Axes]) -> None:
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = many[0].get_legend_handles_labels()
    picture.legend(handles, names, loc="outside upper left", frameon=False, fontsize=8)


def _colours(gains: Gains) -> list[str]:
    return [_LINES[i % len(_LINES)] for i in range(len(gains))]


def _groups(gains: Gains) -> list[str]:
    found = dict.fromkeys(one.group or NO_GROUP for own in gains.values() for one in own)
    return sorted(found, key=lambda group: (group == NO_GROUP, group))


def _group_rows(gains: Gains, shown: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for group in _groups(gains):
        for name, own in gains.items():
            within = [one for one in own if (one.group or NO_GROUP) == group]
            found = [middle(within, figure) for figure in shown]
            medians = [of.median.written(signed=True) if of else "" for of in found]
            if any(found):
                rows.append([group, name, str(len(within)), *medians])
    names = [f"median gain in {FIGURES[figure]}" for figure in shown]
    return ["group", "runs", "tasks", *names], rows


def _of_tasks(gains: Gains, shown: Sequence[str]) -> list[str]:
    """Return a table of the pairs with the largest gains and losses."""
    pairs: dict[tuple[str, str, str], dict[str, TaskGain]] = {}
    for name, own in gains.items():
        for one in own:
            pairs.setdefault((one.silo, one.task, one.group), {})[name] = one
    ordered = sorted(pairs.items(), key=lambda pair: -_largest(list(pair[1].values()), shown))
    several = len({silo for silo, _, _ in pairs}) > 1
    head = [*(["silo"] if several else []), "task", "group"]
    head += [f"{name}: {FIGURES[figure]}" for name in gains for figure in shown]
    rows = [
        [
            *([silo] if several else []),
            task,
            group,
            *(
                found[name].gains[figure].written(signed=True)
                if name in found and figure in found[name].gains
                else ""
                for name in gains
                for figure in shown
            ),
        ]
        for (silo, task, group), found in ordered[:MOST_ROWS]
    ]
    left_out = len(ordered) - len(rows)
    note = [f"<p>{left_out} tasks with smaller gains are left out.</p>"] if left_out else []
    return [table(head, rows), *note]


def _largest(gains: Sequence[TaskGain], shown: Sequence[str]) -> float:
    found = (abs(one.gains[f].mean) for one in gains for f in shown if f in one.gains)
    return max(found, default=0.0)

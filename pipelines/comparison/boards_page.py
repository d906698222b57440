"""Leaderboards and the gain in conformal efficiency, for a comparison's page and the terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence

from blindsum.pipelines.comparison.compare import Comparison, label
from blindsum.pipelines.comparison.leaderboards import RANKED_BY, Place, leaderboards
from blindsum.pipelines.show.page import table


def boards_section(comparison: Comparison) -> list[str]:
    """Return the section's parts as HTML; none for runs without tasks."""
    boards = leaderboards(comparison)
    if not boards:
        return []
    said = (
        "<p>Means over silo-task pairs, the best first, and gains over each silo alone with the "
        "same seeds. The conformal efficiency is the share of held-out records with one label in a "
        "prediction set that has the label of 80 % of each class; guessing has 0.4.</p>"
    )
    parts = ["<h2>Leaderboards</h2>", said]
    for group, places in boards.items():
        heading = f"group {group}" if group else "all tasks"
        parts += [f"<h3>{html.escape(heading)}</h3>", table(*board_rows(places))]
    return parts


def board_rows(places: Sequence[Place]) -> tuple[list[str], list[list[str]]]:
    """Return a leaderboard's heading and rows."""
    shown = [name for name in RANKED_BY if any(name in place.figures for place in places)]
    rows = []
    for number, place in enumerate(places, 1):
        row = [str(number), label(place.key)]
        for name in shown:
            figure, gain = place.figures.get(name), place.gains.get(name)
            row.append(figure.written() if figure else "")
            row.append(gain.written(signed=True) if gain else "")
        rows.append(row)
    head = [cell for name in shown for cell in (RANKED_BY[name], "gain")]
    return ["", "runs", *head], rows

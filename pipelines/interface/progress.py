"""The progress of a run in a notebook, on a terminal, or nowhere."""

from __future__ import annotations

import logging
import time
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from blindsum.pipelines.run import output
from blindsum.pipelines.show.console import console
from blindsum.platform.errors import BlindsumError

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.pipelines.run.run import Run

Progress = bool | Literal["lines"]

_BETWEEN_S = 0.2
"""Least seconds between two changes of what a notebook shows."""


def in_notebook() -> bool:
    """Return whether a notebook runs this process."""
    return console.is_jupyter


class NotebookProgress(output.Quiet):
    """A listener that shows a run's progress below the notebook's cell, in one place that changes.

    (Rich's own live display needs ipywidgets.)
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._handle: Any = display(HTML(""), display_id=True)
        self._shown_s = 0.0

    def stage(self, text: str) -> None:
        """Show what the run waits for."""
        self._show(escape(text))

    def round(self, run: Run, report: RoundReport) -> None:
        """Show how far the run is, and its newest figures."""
        last = report.round == run.rounds_planned
        if not last and time.monotonic() - self._shown_s < _BETWEEN_S:
            return
        found = report.metrics.held_out
        spent = f", epsilon {max(report.epsilon.values()):.3f}" if report.epsilon else ""
        score = f": {found.score.name} {found.score.written}" if found else ""
        self._show(
            f'<progress value="{report.round}" max="{run.rounds_planned}"></progress> '
            + escape(f"round {report.round} of {run.rounds_planned}{score}{spent}")
        )

    def close(self) -> None:
        """Remove the progress: the cell's result follows."""
        self._show("")

    def _show(self, html: str) -> None:
        self._handle.update(self._html(html))
        self._shown_s = time.monotonic()


def listener(progress: Progress, job: str) -> NotebookProgress | output.Shown:
    """Return what shows the progress of a run of a job of that name.

    Args:
        progress: True: live, in a notebook or on a terminal, and elsewhere only warnings. "lines":
            a line for each stage and round. False: only warnings.

    Raises:
        BlindsumError: it is something else.
    """
    if in_notebook():
        _import_ray()
    if progress == "lines":
        return output.Lines(job)
    if not isinstance(progress, bool):
        raise BlindsumError(f"progress {progress!r} is not known", 'Choose True, False or "lines".')
    if not progress:
        return output.Quiet()
    return NotebookProgress() if in_notebook() else output.listener(False, job=job)


def _import_ray() -> None:
    """Import Ray without its advice to install ipywidgets, which Blindsum does not use."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        import_module("ray")
    finally:
        logging.disable(before)

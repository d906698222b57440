"""A line about work that is under way: on stderr, on a terminal, and nowhere else.

Commands show it for whatever may take more than two seconds. It is there only if the work takes
longer than `AFTER_S`, so that quick commands do not flicker, and it leaves nothing behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from blindsum.pipelines.show.console import console

AFTER_S = 0.5


class Shown:
    """The line. Its methods may be called from any thread.

    Args:
        text: what is done first, without a known number of steps.
        quiet: whether to show nothing on a terminal either.
    """

    def __init__(self, text: str, quiet: bool) -> None:
        self._bar = step_bar(transient=True, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task(text, total=None)
        self._later = threading.Timer(AFTER_S, self._bar.start)
        self._later.daemon = True
        if not self._bar.disable:
            self._later.start()

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin the next stage, of `total` steps if their number is known."""
        self._bar.tasks[0].total = total  # `reset` would keep the last stage's if there is none
        self._bar.reset(self._task, description=text, total=total)

    def step(self, steps: int = 1) -> None:
        """Complete steps of the stage."""
        self._bar.advance(self._task, steps)

    def share(self, share: float) -> None:
        """Note how much of the stage is done, 0 to 1: of one whose steps are not counted."""
        self._bar.update(self._task, completed=share, total=1.0)

    def close(self) -> None:
        """Remove the line."""
        if self._bar.disable:
            return
        self._later.cancel()
        self._later.join()  # it may be starting the bar just now
        self._bar.stop()


@contextmanager
def progress(text: str, quiet: bool, total: int | None = None) -> Iterator[Shown]:
    """Show a line until the block ends. Arguments as `Shown` and `Shown.stage`. One at a time."""
    shown = Shown(text, quiet)
    try:
        if total is not None:
            shown.stage(text, total)
        yield shown
    finally:
        shown.close()


class _Counted(MofNCompleteColumn):
    """Steps as 3/10, a share in percent, and nothing of a stage without either."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        if task.total == 1:
            return Text(f"{task.percentage:.0f} %", style="progress.percentage")
        return super().render(task)


def step_bar(transient: bool = False, disable: bool = False) -> Progress:
    """Return a bar on stderr that counts the steps of its task."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _Counted(),
        TimeElapsedColumn(),
        console=console,
        transient=transient,
        disable=disable,
    )

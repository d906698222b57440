"""Write to the terminal: errors, warnings and progress on stderr, JSON lines on stdout.

No record and no key reaches this module.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from blindsum.platform.errors import BlindsumError

console = Console(stderr=True, highlight=False)
if not console.is_terminal:
    console = Console(stderr=True, highlight=False, width=120)


def show_error(error: Exception) -> None:
    """Print an error as one message on stderr, and what only the owner of a table may read: an
    error has that only in the process that read the table."""
    console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
    if told := getattr(error, "at_silo", ""):
        console.print(Text(told), soft_wrap=True)


def show_warnings(found: list[str]) -> None:
    """Print each warning on its own line."""
    for text in found:
        console.print(f"[bold red]warning:[/] {text}")


_kept: TextIO | None = None


def keep_stdout() -> None:
    """Reserve stdout for our own lines: Ray prints messages about lost workers there."""
    global _kept
    _kept, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def emit(event: str, **content: Any) -> None:
    """Print one JSON line on stdout. A closed pipe does not end a run.

    Raises:
        BlindsumError: the output cannot be written, for example to a full disk.
    """
    stream = _kept or sys.stdout
    try:
        stream.write(json.dumps({"event": event, **content}) + "\n")
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        raise BlindsumError(
            f"the output cannot be written: {os.strerror(error.errno or 0)}",
            "Free some space, or redirect the output.",
        ) from None


def _silence(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that flushing it at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def counting(text: str, total: int, quiet: bool) -> Iterator[Callable[..., None]]:
    """Show a progress bar of `total` steps on a terminal; yield the function to call per step."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        task = bar.add_task(text, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def size(count: float) -> str:
    """Format a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""

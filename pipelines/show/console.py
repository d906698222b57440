"""The terminal: errors, warnings and progress on stderr, JSON lines on stdout.

Nothing here knows a record or a key.
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
    """One message, on stderr."""
    console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)


def show_warnings(found: list[str]) -> None:
    """Every warning on a line of its own."""
    for text in found:
        console.print(f"[bold red]warning:[/] {text}")


_kept: TextIO | None = None


def keep_stdout() -> None:
    """Keep stdout for our own lines: Ray prints about lost workers there."""
    global _kept
    _kept, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - till the process ends


def emit(event: str, **content: Any) -> None:
    """One JSON line on stdout. A reader that went away does not end a run."""
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
            "Make room, or send it elsewhere.",
        ) from None


def _silence(stream: TextIO) -> None:
    """What is still in the stream's buffer must not fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def counting(text: str, total: int, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar of that many steps where there is a person to see it; gives what is called at each."""
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
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""

"""Write to the terminal. One rule for every command:

    stdout    what the person asked for: `show_result`, or JSON lines (`emit`)
    stderr    progress, warnings, errors, and what was written where (`console`)

So `blindsum check job.yaml > plan.txt` leaves the plan in the file, and what needs attention on the
screen. No record and no key reaches this module.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from typing import IO, Any, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from blindsum.platform.errors import BlindsumError

_UNBOUNDED = 100_000
"""Columns of a file: lines are not wrapped in it."""


class _Stderr(Console):
    """A console that never ends a run: a full disk behind stderr costs the lines, nothing else."""

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except OSError:
            self._buffer.clear()
            with suppress(OSError, ValueError):
                _silence(self.file)


_AS_WRITTEN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
"""Texts quote paths, names and other silos' words. Markup would turn "mass[kg]" into "mass" and
fail on "[/]", and ":on:" would become a picture. Style is added with rich's `Text`."""

console: Console = _Stderr(stderr=True, **_AS_WRITTEN)
if not console.is_terminal:
    console = _Stderr(stderr=True, width=120, **_AS_WRITTEN)


def show_error(error: Exception) -> None:
    """Print an error as one message on stderr, and what only the owner of a table may read: an
    error has that only in the process that read the table."""
    console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
    if told := getattr(error, "at_silo", ""):
        console.print(Text(told), soft_wrap=True)


def show_warnings(found: list[str]) -> None:
    """Print each warning on its own line."""
    for text in found:
        console.print(Text.assemble(("warning:", "bold red"), f" {text}"))


def show_event(line: str) -> None:
    """Print a line of a service, with the time. It may quote what others wrote."""
    clock = time.strftime("%H:%M:%S")
    console.print(Text.assemble((clock, "dim"), f" {plain(line)}"), soft_wrap=True)


def show_incomplete(failure: str) -> None:
    """Print what MLflow could not take."""
    console.print(Text.assemble(("MLflow is incomplete:", "yellow"), f" {failure}"))


def plain(text: str) -> str:
    """Return a text from outside with its control characters visible: an escape sequence could
    rewrite a terminal, and a change of direction could reorder what is read."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


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
    _print(json.dumps({"event": event, **content}) + "\n")


def show_result(*parts: RenderableType, soft_wrap: bool = False) -> None:
    """Print what the person asked for on stdout. Raises as `emit`.

    Args:
        soft_wrap: leave lines whole that are wider than the terminal: commands, paths, digests.
    """
    shown = Console(file=_kept or sys.stdout, **_AS_WRITTEN)
    if not shown.is_terminal:
        shown.width = _UNBOUNDED  # a file is searched and cut by line
    with shown.capture() as text:
        shown.print(*parts, soft_wrap=soft_wrap)
    _print("\n".join(line.rstrip() for line in text.get().split("\n")))


def _print(text: str) -> None:
    """Write to stdout. A closed pipe does not end a run.

    Raises:
        BlindsumError: the output cannot be written.
    """
    stream = _kept or sys.stdout
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # a job may quote what this terminal cannot show
            coding = stream.encoding
            stream.write(text.encode(coding, "backslashreplace").decode(coding))
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        raise BlindsumError(
            f"the output cannot be written: {os.strerror(error.errno or 0)}",
            "Free some space, or redirect the output.",
        ) from None


def _silence(stream: IO[str]) -> None:
    """Redirect a stream to the null device, so that flushing it at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def size(count: float) -> str:
    """Format a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""

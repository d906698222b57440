"""The end of a search on public records: the sections of a job file, printed or written."""

from __future__ import annotations

from pathlib import Path

from blindsum.pipelines.run.files import write_whole
from blindsum.pipelines.show.console import console, show_result
from blindsum.platform.errors import JobError


def require_new(write: Path | None) -> None:
    """Raise JobError if the file for the sections exists."""
    if write and write.exists():
        raise JobError(f"{write} already exists", "Name another file.")


def offer(text: str, write: Path | None, as_json: bool) -> None:
    """Write the sections into a new file, or print them unless JSON was asked for.

    Raises:
        JobError: the file cannot be written.
    """
    if write:
        try:
            write_whole(write, text.encode())
        except OSError as error:
            raise JobError(f"{write} cannot be written: {error.strerror}") from None
        console.print(f"wrote {write}: sections for the job file", soft_wrap=True)
    elif not as_json:
        show_result(f"\n{text.rstrip()}", soft_wrap=True)

"""`blindsum describe`: what a consortium holds, as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from blindsum.pipelines.description.propose import proposed
from blindsum.pipelines.run.files import write_whole
from blindsum.pipelines.show.console import console, emit
from blindsum.pipelines.statistics.derived import derived
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile

if TYPE_CHECKING:
    from blindsum.pipelines.run.run import Run


def bounds_of(texts: Sequence[str]) -> Mapping[str, tuple[float, float]]:
    """Return public bounds by column.

    Args:
        texts: COLUMN=LOW:HIGH.

    Raises:
        JobError: one is not of that form.
    """
    found = {}
    for text in texts:
        name, _, ends = text.rpartition("=")
        low, _, high = ends.partition(":")
        try:
            found[name] = float(low), float(high)
        except ValueError:
            raise JobError(
                f"{text!r} gives no bounds", "Write COLUMN=LOW:HIGH, as age=0:120."
            ) from None
        if not name:
            raise JobError(f"{text!r} names no column", "Write COLUMN=LOW:HIGH, as age=0:120.")
    return found


def describe(
    job_file: JobFile,
    address: str | None,
    epsilon: float | None,
    bounds: Sequence[str],
    propose: Path | None,
    write: Path | None,
    as_json: bool,
) -> None:
    """Run the statistics of a job, and print them; or only write their job.

    Args:
        propose: where to write the job with constants from the figures.
        write: where to write the job of statistics, instead of running it.

    Raises:
        BlindsumError: the run failed, or a file cannot be written.
    """
    statistics = derived(job_file, epsilon, bounds_of(bounds))
    for path in (propose, write):
        if path and path.exists():
            raise JobError(f"{path} already exists", "Name another file.")
    if write:
        _write(write, statistics.text)
        said = quote(str(write))
        console.print(f"wrote {write}; run it with: blindsum run {said}", soft_wrap=True)
        return
    from blindsum.pipelines.interface.training import train_shown
    from blindsum.pipelines.run import output
    from blindsum.pipelines.run.closing import show_end

    def ended(run: Run) -> None:
        emit("end", **run.summary()) if as_json else show_end(run)
        if propose and run.statistics:
            _write(propose, proposed(job_file, run.statistics, run.name))
            said = quote(str(propose))
            console.print(
                f"wrote {propose}; compare it with {job_file.path.name}, then: "
                f"blindsum check {said}",
                soft_wrap=True,
            )

    shown = output.listener(as_json, lines=False, job=statistics.job.name)
    train_shown(statistics, address, shown, ended)


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error.strerror}") from None

"""`blindsum describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import (
    AddressOption,
    JobArgument,
    JsonOption,
    SetOption,
    interruptible,
)
from blindsum.pipelines.show.console import keep_stdout
from blindsum.pipelines.show.progress import progress
from blindsum.platform.job.file import load_job


@interruptible
def describe(
    job: JobArgument,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="Budget of the statistics; default: the job's privacy.describe_epsilon."
        ),
    ] = None,
    bounds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=LOW:HIGH",
            help="Public bounds of a column, in its unit; may repeat. Default: they are found.",
        ),
    ] = None,
    propose: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the job with constants that fit the figures."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only write the job of the statistics, to approve, propose or submit it.",
        ),
    ] = None,
    set_: SetOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Before any training: what the silos hold together, under a budget of its own."""
    job_file = load_job(job, set_ or [])
    with progress("starting", json):
        from blindsum.pipelines.description.command import describe as describe_job

    keep_stdout()
    describe_job(job_file, address, epsilon, bounds or [], propose, write, json)

"""`blindsum plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import (
    JobArgument,
    JsonOption,
    SetOption,
    YesOption,
    agreed,
    interruptible,
)
from blindsum.pipelines.show.console import console, keep_stdout
from blindsum.pipelines.show.progress import progress
from blindsum.platform.job.file import load_job


@interruptible
def plan(
    job: JobArgument,
    data: Annotated[
        Path,
        typer.Option("--data", metavar="FILE", help="A PUBLIC table with the columns of the job."),
    ],
    silos: Annotated[
        int | None, typer.Option(min=2, max=64, help="Number of silos; default: the job's.")
    ] = None,
    data_size: Annotated[
        int | None,
        typer.Option(
            min=20, help="Training records of each silo; default: as many as the file gives them."
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=1e-3, max=1e6, help="Budget; default: the job's.")
    ] = None,
    divisions: Annotated[
        int, typer.Option(min=2, max=20, help="Divisions into folds on which figures are measured.")
    ] = 3,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the sections; default: print.")
    ] = None,
    set_: SetOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Choose sampling rate, rounds, learning rate and clip norm on PUBLIC records."""
    job_file = load_job(job, set_ or [])
    with progress("starting", json):
        from blindsum.pipelines.selection.command import WARNING
        from blindsum.pipelines.selection.planning import plan_job
        from blindsum.pipelines.selection.public_records import require_public

    require_public(data)
    console.print(WARNING)
    agreed(f"Is every record in {data} public?", yes)
    keep_stdout()
    plan_job(job_file, data, silos, data_size, epsilon, divisions, write, json)

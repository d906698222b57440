"""The question whether records are public, before weights that are trained on them are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import agreed
from blindsum.pipelines.show.console import console
from blindsum.platform.job.file import JobFile

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--publish-weights",
        metavar="FILE.safetensors",
        help="With pooled, on PUBLIC records: train without privacy, and write the weights without "
        "the head, for other jobs to begin with.",
    ),
]


def say_public(job_file: JobFile, weights: Path, yes: bool) -> None:
    """Show which tables weights would be trained on, and ask whether their records are public.

    Raises:
        ConsentError, JobError: such weights cannot be published, or nobody can be asked.
    """
    from blindsum.pipelines.comparison.public_trunk import require_publishable  # imports torch

    console.print("trains without differential privacy, and keeps the weights:", str(weights))
    for table in require_publishable(job_file, weights):
        console.print(f"  from {table}", soft_wrap=True)
    agreed("Is every record in these tables public?", yes)

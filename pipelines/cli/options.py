"""What several commands take, and how they end on Ctrl-C."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from blindsum.pipelines.show.console import console

P = ParamSpec("P")

JobArgument = Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.YAML")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: training.rounds=5."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join (auto, HOST:PORT). Default: a local Ray of our own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, on stdout.")]
LinesOption = Annotated[
    bool, typer.Option("--lines", help="A line for each round, for a log that someone follows.")
]
HeadOption = Annotated[
    str | None, typer.Option("--head", help="A head kept earlier, which must still be there.")
]
ExportOption = Annotated[Path, typer.Option("--to", help="JSON file to write.")]
SiloOption = Annotated[str, typer.Option("--silo", help="The silo's name in the job file.")]


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """Say that Ctrl-C was heard, and end with the shell's status for it."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(130) from None

    return call

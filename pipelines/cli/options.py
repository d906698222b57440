"""Arguments and options that several commands share, and how commands end on Ctrl-C."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from blindsum.pipelines.cli.completion import job_files, silo_names
from blindsum.pipelines.show.console import console
from blindsum.platform.errors import JobError

P = ParamSpec("P")

JobArgument = Annotated[
    Path,
    typer.Argument(help="The job file.", metavar="JOB.YAML", autocompletion=job_files),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. training.rounds=5; may repeat."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join (auto, HOST:PORT). Default: start a local Ray."),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", help="The owner's file; default: the one in force on this machine."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per line on stdout.")
]
LinesOption = Annotated[
    bool, typer.Option("--lines", help="Print one line per round, for a log file.")
]
HeadOption = Annotated[
    str | None,
    typer.Option("--head", help="A head noted earlier, which the chain must still contain."),
]
ExportOption = Annotated[Path, typer.Option("--to", help="JSON file to write.")]
SiloOption = Annotated[
    str,
    typer.Option("--silo", help="The silo's name in the job file.", autocompletion=silo_names),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")]


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: on Ctrl-C, print "interrupted" and exit with status 130."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(130) from None

    return call


def agreed(question: str, yes: bool) -> None:
    """Ask on the terminal, and end the command unless the answer is yes.

    Args:
        yes: the answer was given with --yes.

    Raises:
        JobError: nobody can be asked, because standard input is not a terminal.
    """
    if yes:
        return
    if not _is_terminal():
        raise JobError(
            "this needs a yes, and there is no terminal to ask on",
            "Read what is printed above; to agree without being asked, add --yes.",
        )
    typer.confirm(question, abort=True, err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()

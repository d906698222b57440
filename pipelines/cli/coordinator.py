"""`blindsum coordinator`, `invite` and `propose`: the consortium's operator, and who proposes."""

from __future__ import annotations

import os
import secrets
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import (
    JobArgument,
    JsonOption,
    LinesOption,
    SetOption,
    interruptible,
)
from blindsum.pipelines.show.console import emit, keep_stdout, show_event
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import load_job

app = typer.Typer(
    no_args_is_help=True, help="Run a coordinator, to which silos of other organisations connect."
)
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The coordinator's folder; default: ~/.blindsum/coordinator."),
]
_TOKEN = "BLINDSUM_PROPOSER"


@app.command()
def init(
    url: Annotated[str, typer.Option(help="https://HOST:PORT, as the silos will reach it.")],
    folder: FolderOption = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen; default: everywhere; may repeat."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Ray cluster for the aggregators (auto, HOST:PORT). Default: its own."),
    ] = None,
) -> None:
    """Make a coordinator's folder: keys, authority, settings, and a token to propose jobs."""
    from blindsum.he.identity import fingerprint
    from blindsum.pipelines.consortium.settings import make_home

    home = make_home(folder, url, listen or [], ray)
    typer.echo(f"wrote {home.folder}")
    typer.echo(f"identity {fingerprint(home.identity.public)}")
    typer.echo(f"proposers need {home.proposer_token}", err=True)


@app.command()
@interruptible
def serve(
    folder: FolderOption = None, json: JsonOption = False, lines: LinesOption = False
) -> None:
    """Listen for silos, and run the jobs that they have approved, one after the other."""
    from blindsum.pipelines.consortium.coordinator import Coordinator
    from blindsum.pipelines.consortium.settings import open_home
    from blindsum.pipelines.run import output
    from blindsum.pipelines.run.closing import show_end
    from blindsum.pipelines.run.run import Run

    home = open_home(folder)
    keep_stdout()

    def finished(run: Run) -> None:
        emit("end", **run.summary()) if json else show_end(run)

    coordinator = Coordinator(
        home, version("blindsum"), show_event, lambda: output.listener(json, lines), finished
    )
    coordinator.serve(threading.Event())


@app.command()
def status(folder: FolderOption = None, json: JsonOption = False) -> None:
    """Show the silos, when they were last seen, and the jobs with what their owners decided."""
    from blindsum.pipelines.consortium.settings import open_home
    from blindsum.pipelines.consortium.status import show_status

    show_status(open_home(folder), json)


@app.command()
def start(
    job: Annotated[str, typer.Argument(help="The beginning of its digest, or its name.")],
    folder: FolderOption = None,
) -> None:
    """Start a job with the silos that have approved it, if they reach its quorum; or let a failed
    run go on after its last round."""
    from blindsum.actors.separate.registry import OPEN
    from blindsum.pipelines.consortium.settings import open_home

    registry = open_home(folder).registry
    found = registry.proposal(job)
    if found.state == "failed" and found.run:
        registry.note(found.digest, "interrupted", note="")
    elif found.state not in OPEN:
        raise JobError(f"{found.name} is {found.state}", "Propose it again for another run.")
    registry.force(found.digest)
    typer.echo(f"{found.name} ({found.digest[:8]}) starts when {found.least} silos are connected")


@app.command()
def withdraw(
    job: Annotated[str, typer.Argument(help="The beginning of its digest, or its name.")],
    folder: FolderOption = None,
) -> None:
    """Withdraw a proposed job that is not running."""
    from blindsum.actors.separate.registry import OPEN
    from blindsum.pipelines.consortium.settings import open_home

    registry = open_home(folder).registry
    found = registry.proposal(job)
    if found.state not in OPEN or found.state == "running":
        raise JobError(f"{found.name} is {found.state}", "Only a waiting job can be withdrawn.")
    registry.note(found.digest, "withdrawn", note="by the coordinator's operator")
    typer.echo(f"withdrew {found.name} ({found.digest[:8]})")


def invite(
    silo: Annotated[str, typer.Argument(help="The name under which the silo will take part.")],
    folder: FolderOption = None,
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How long it is valid.")] = 48,
) -> None:
    """Invite a silo: print a word that enrols it once."""
    from pydantic import TypeAdapter, ValidationError

    from blindsum.he.exchange import SiloName
    from blindsum.pipelines.consortium.invitation import Token, written
    from blindsum.pipelines.consortium.settings import open_home

    try:
        TypeAdapter(SiloName).validate_python(silo)
    except ValidationError:
        raise JobError(
            f"{silo!r} is not a name for a silo",
            "Use at most 40 lower-case letters, digits, hyphens and underscores.",
        ) from None
    home = open_home(folder)
    secret = home.registry.invite(silo, hours)
    typer.echo(written(Token("join", home.file.url, home.identity.public, secret, silo)))
    typer.echo(
        f"valid once, for {hours:g} hours. Its holder can enrol as '{silo}': send it as you would "
        "a password. Then compare the fingerprints that silo join and coordinator status print.",
        err=True,
    )


def propose(
    job: JobArgument,
    token: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the proposer's token; default: ${_TOKEN}, or the coordinator's own."
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Propose a job to its silos: it starts when they have approved it."""
    from blindsum.pipelines.consortium.invitation import propose as send
    from blindsum.pipelines.consortium.invitation import read_token
    from blindsum.pipelines.consortium.job import proposal_of

    proposal, code = proposal_of(load_job(job, set_ or []))
    proposed = send(
        read_token(_proposer_token(token), "propose"),
        proposal,
        list(code.values()),
        lambda: secrets.token_hex(16),
    )
    typer.echo(f"proposed {proposal.name} ({proposed.digest[:8]}) to:")
    for name, identity in proposed.silos:
        typer.echo(f"  {name:<20} identity {identity}")


def _proposer_token(path: Path | None) -> str:
    from blindsum.pipelines.consortium.settings import default_folder

    if path is None and (word := os.environ.get(_TOKEN)):
        return word
    path = path or default_folder() / "proposer.token"
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise JobError(
            f"there is no readable proposer's token at {path}",
            f"Ask the coordinator's operator for the file proposer.token, and give --token FILE or "
            f"set {_TOKEN}.",
        ) from None

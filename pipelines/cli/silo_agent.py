"""`blindsum silo join, serve, status, jobs, show, approve, refuse`: a silo with its own cluster."""

from __future__ import annotations

import datetime
import time
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from blindsum.pipelines.cli import silo
from blindsum.pipelines.cli.approve import (
    ListOption,
    RevokeOption,
    RunsOption,
    UntilOption,
    ask,
    end_of,
    list_approvals,
    revoke_approvals,
    say_approved,
)
from blindsum.pipelines.cli.options import (
    AddressOption,
    FileOption,
    JsonOption,
    YesOption,
    interruptible,
)
from blindsum.pipelines.show.console import emit, keep_stdout, show_event
from blindsum.platform.errors import JobError

if TYPE_CHECKING:
    from blindsum.pipelines.consortium.silo import SiloHome

app = silo.app
_PROPOSED = typer.Argument(help="The beginning of the job's digest, or its name.", metavar="JOB")


@app.command()
def join(
    invitation: Annotated[str, typer.Argument(help="The word from the consortium's operator.")],
    file: FileOption = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="http://USER:PASSWORD@HOST:PORT; default: HTTPS_PROXY."),
    ] = None,
) -> None:
    """Enrol this silo at a coordinator, and add the coordinator to the owner's file."""
    from blindsum.pipelines.consortium.invitation import read_token
    from blindsum.pipelines.consortium.silo import join_coordinator

    home = _open(file)
    compare, missing = join_coordinator(home, read_token(invitation, "join"), proxy)
    typer.echo(f"joined; compare with the coordinator's operator: {compare}")
    if missing:
        typer.echo(f"{home.owner.path} cannot be written here. Add to it:", err=True)
        typer.echo(missing, nl=False)
    typer.echo("then run: blindsum silo serve", err=True)


@app.command()
@interruptible
def serve(
    file: FileOption = None,
    address: AddressOption = None,
    cores: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Cores that the silo may use; default: all.")
    ] = None,
    page: Annotated[bool, typer.Option(help="Serve a page on this machine's loopback.")] = True,
) -> None:
    """Connect to the coordinator and take part in approved jobs, until stopped."""
    from blindsum.pipelines.consortium.silo import serve_silo

    keep_stdout()
    serve_silo(_open(file), version("blindsum"), address, cores, page, show_event)


@app.command()
def status(file: FileOption = None, json: JsonOption = False) -> None:
    """Show whether the agent runs and is connected, and the run it is in."""
    from blindsum.pipelines.consortium.silo import is_serving, status_of

    home = _open(file)
    found = status_of(home.state) if is_serving(home.state) else {}
    section = home.coordinator
    if json:
        return emit("status", silo=home.name, serving=bool(found), url=section.url, **found)
    typer.echo(f"silo         {home.name} ({home.owner.path})")
    typer.echo(f"coordinator  {section.url}, TLS {section.tls}")
    if not found:
        typer.echo("agent        not running: blindsum silo serve")
        raise typer.Exit(1)
    ago = time.time() - found.get("at", 0.0)
    state = "connected" if found.get("connected") else f"not connected: {found.get('why', '')}"
    typer.echo(f"agent        {state} ({ago:.0f} s ago)")
    typer.echo(f"run          {found.get('run') or 'none'}")
    return None


@app.command()
def jobs(file: FileOption = None, json: JsonOption = False) -> None:
    """List the jobs that were proposed to this silo."""
    from blindsum.actors.separate.inbox import Inbox

    found = Inbox(_open(file).state).all()
    if json:
        for one in found:
            emit("job", digest=one.digest, name=one.name, verdict=one.verdict, state=one.state)
        return
    if not found:
        typer.echo("no job was proposed to this silo yet", err=True)
    for one in found:
        day = datetime.datetime.fromtimestamp(one.at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        note = f"  {one.reason or one.note}" if one.reason or one.note else ""
        typer.echo(f"{one.digest[:8]}  {day}  {one.verdict:<9} {one.state:<12} {one.name}{note}")


@app.command("show")
def show_job(
    job: Annotated[
        str | None,
        typer.Argument(help="A proposed job, by digest or name; default: the owner's file."),
    ] = None,
    file: FileOption = None,
) -> None:
    """Show what a proposed job would train, spend, send and reveal; or the owner's file."""
    from blindsum.actors.separate.inbox import Inbox
    from blindsum.pipelines.cli.silo import show
    from blindsum.pipelines.consortium.review import review

    if job is None:
        return show()
    home = _open(file)
    inbox = Inbox(home.state)
    digest = inbox.one(job).digest
    for line in review(home.owner, home.name, inbox, digest, features=True).lines():
        typer.echo(line)
    return None


@app.command("approve")
def approve_proposed(
    job: Annotated[str | None, _PROPOSED] = None,
    file: FileOption = None,
    runs: RunsOption = 1,
    until: UntilOption = None,
    yes: YesOption = False,
    list_: ListOption = False,
    revoke: RevokeOption = None,
) -> None:
    """Approve a proposed job with its code, its initial weights and this silo's table."""
    from blindsum.actors.separate.inbox import Inbox
    from blindsum.pipelines.consortium.deciding import approve_proposal, require_approvable
    from blindsum.pipelines.consortium.review import review
    from blindsum.platform.state.approval import DEFAULT_DAYS, require_useful

    home = _open(file)
    command = "blindsum silo approve" + (f" --file {quote(str(file))}" if file else "")
    if list_:
        return list_approvals(home.owner, home.name)
    if revoke is not None:
        return revoke_approvals(home.owner, home.name, revoke, command)
    if job is None:
        raise JobError("approve needs a proposed job", "Or use --list, or --revoke APPROVAL.")
    end, inbox = end_of(until, DEFAULT_DAYS), Inbox(home.state)
    one = inbox.one(job)
    require_useful(runs, end, time.time())
    require_approvable(home.owner, home.name, inbox, one.digest)
    found = review(home.owner, home.name, inbox, one.digest, features=True)
    ask(found, home.owner, runs, end, yes)
    given = approve_proposal(home.owner, home.name, inbox, one.digest, runs, end)
    say_approved(f"{one.name} ({one.digest[:8]})", given, command)
    return None


@app.command()
def refuse(
    job: Annotated[str, _PROPOSED],
    because: Annotated[
        str, typer.Option("--because", help="Your reason; the coordinator's operator reads it.")
    ],
    file: FileOption = None,
) -> None:
    """Refuse a proposed job."""
    from blindsum.actors.separate.inbox import Inbox
    from blindsum.pipelines.consortium.deciding import refuse_proposal

    inbox = Inbox(_open(file).state)
    one = inbox.one(job)
    refuse_proposal(inbox, one.digest, because)
    typer.echo(f"refused {one.name} ({one.digest[:8]})")


def _open(file: Path | None) -> SiloHome:
    from blindsum.pipelines.consortium.silo import open_silo

    return open_silo(file)

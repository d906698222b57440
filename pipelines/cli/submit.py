"""`blindsum submit` and `blindsum job`: jobs on a Ray cluster, from any machine that reaches its dashboard."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from blindsum.pipelines.cli.options import JobArgument, JsonOption, SetOption, interruptible
from blindsum.pipelines.show.console import console, emit
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import load_job

if TYPE_CHECKING:
    from blindsum.infra.submission import Cluster, Ship, Submitted

app = typer.Typer(no_args_is_help=True, help="Jobs that were submitted to a Ray cluster.")

ServerOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="http://HOST:8265",
        help="The cluster's job server, which is its dashboard.",
    ),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="Certificate that an https address is verified with.")
]
IdArgument = Annotated[str, typer.Argument(help="What submit printed.", metavar="ID")]


@interruptible
def submit(
    job: JobArgument,
    address: ServerOption,
    ca: CaOption = None,
    set_: SetOption = None,
    ship: Annotated[
        str | None,
        typer.Option(
            metavar="code|all|nothing",
            help="What of Blindsum the nodes lack. Default: code; nothing where a node offers silo:NAME.",
        ),
    ] = None,
    with_folder: Annotated[
        bool, typer.Option("--with-folder", help="Simulation: send the tables to all nodes, too.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this folder of the driver's node.")
    ] = None,
    python: Annotated[str, typer.Option(help="The nodes' interpreter.")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id and end.")] = False,
    json: JsonOption = False,
) -> None:
    """Run a job on a Ray cluster, through Ray's job submission; ends with the job's exit status."""
    if ship not in (None, "code", "all", "nothing"):
        raise JobError(f"there is no --ship {ship!r}", "Take code, all or nothing.")
    if resume and set_:
        raise JobError("--set has no effect on a run that goes on", "Its job is the one it began.")
    job_file = load_job(job, set_ or [])
    cluster = _cluster(address, ca)
    found = cluster.submit(
        job_file,
        ship=cast("Ship | None", ship),
        with_folder=with_folder,
        resume=resume,
        python=python,
        json=json,
    )
    if no_wait:
        typer.echo(found.id)
        return
    console.print(f"submitted {found.id}", soft_wrap=True)
    try:
        _follow(cluster, found.id)
    except KeyboardInterrupt:
        console.print(f"the job goes on; end it with: blindsum job stop {found.id}", soft_wrap=True)
        raise
    _end_as(cluster.job(found.id))


@app.command("list")
def list_(address: ServerOption, ca: CaOption = None, json: JsonOption = False) -> None:
    """Print Blindsum's jobs on the cluster, the newest first."""
    jobs = _cluster(address, ca).jobs()
    if json:
        for one in jobs:
            emit("job", **asdict(one))
        return
    table = Table(box=None)
    for heading in ("id", "status", "exit status", "begun (UTC)", "seconds"):
        table.add_column(heading, overflow="fold")
    for one in jobs:
        table.add_row(one.id, one.status, _or_blank(one.exit_status), _clock(one), _seconds(one))
    console.print(table)


@app.command()
def status(
    id: IdArgument, address: ServerOption, ca: CaOption = None, json: JsonOption = False
) -> None:
    """Print where a job stands."""
    found = _cluster(address, ca).job(id)
    if json:
        emit("job", **asdict(found))
        return
    ended = f", exit status {found.exit_status}" if found.over else ""
    typer.echo(f"{found.id}: {found.status}{ended}")


@app.command()
@interruptible
def logs(
    id: IdArgument,
    address: ServerOption,
    ca: CaOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Until it ends, as submit does.")
    ] = False,
) -> None:
    """Print what a job said."""
    cluster = _cluster(address, ca)
    if not follow:
        typer.echo(cluster.logs(id), nl=False)
        return
    _follow(cluster, id)
    _end_as(cluster.job(id))


@app.command()
def wheel(
    folder: Annotated[Path, typer.Argument(help="Folder to write into.", metavar="FOLDER")],
) -> None:
    """Write what submit sends, for ray job submit: a wheel, and what it needs as requirements.txt."""
    from blindsum.infra.wheel import make_wheel, requirements

    made = make_wheel(folder)
    needs = folder / "requirements.txt"
    try:
        needs.write_text("\n".join(requirements()) + "\n")
    except OSError as error:
        raise JobError(f"{needs} cannot be written: {error.strerror}") from None
    environment = {"py_modules": [str(made.absolute())], "pip": str(needs.absolute())}
    typer.echo(
        f"wrote {folder}; where nodes lack both: ray job submit --runtime-env-json", err=True
    )
    typer.echo(json_text(environment))


@app.command()
def stop(id: IdArgument, address: ServerOption, ca: CaOption = None) -> None:
    """End a job as Ctrl-C does: its last model is saved, and `submit --resume` goes on with it."""
    cluster = _cluster(address, ca)
    if cluster.job(id).over:
        typer.echo(f"{id} has ended before", err=True)
        return
    found = cluster.stop(id)
    typer.echo(f"{found.id}: {found.status}")
    if not found.over:
        raise typer.Exit(1)


def _cluster(address: str, ca: Path | None) -> Cluster:
    from blindsum.infra.submission import Cluster

    socket.setdefaulttimeout(60)  # Ray's client has no timeout, and a cut network says nothing
    return Cluster(address, ca)


def _follow(cluster: Cluster, id: str) -> None:
    from blindsum.infra.submission import Unanswered

    try:
        for text in cluster.follow(id):
            typer.echo(text, nl=False)
    except Unanswered:
        console.print(f"{id} may go on; see: blindsum job status", soft_wrap=True)
        raise


def _end_as(found: Submitted) -> None:
    last = "\n".join(found.message.splitlines()[-6:])
    if "ModuleNotFoundError: No module named" in last or "is not installed for" in last:
        console.print("the nodes lack what Blindsum needs: --ship all, or nodes with its image")
    elif found.exit_status and not found.message.startswith("Job entrypoint command"):
        said = (found.message.strip().splitlines() or ["no reason was given"])[-1]
        console.print(f"{found.status}: {said[:300]}", markup=False, soft_wrap=True)
    if found.exit_status:
        raise typer.Exit(found.exit_status)


def _or_blank(value: int | None) -> str:
    return "" if value is None else str(value)


def _clock(found: Submitted) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.started)) if found.started else ""


def _seconds(found: Submitted) -> str:
    return f"{found.ended - found.started:.0f}" if found.started and found.ended else ""

"""`blindsum submit` and `blindsum job`: run jobs on a Ray cluster.

They work from any machine that can reach the cluster's dashboard.
"""

from __future__ import annotations

import socket
import time
from dataclasses import asdict
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from blindsum.pipelines.cli.options import JobArgument, JsonOption, SetOption, interruptible
from blindsum.pipelines.show.console import console, emit, show_result
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import JobError
from blindsum.platform.job.file import load_job

if TYPE_CHECKING:
    from blindsum.infra.submission import Cluster, Ship, Submitted

app = typer.Typer(no_args_is_help=True, help="Watch and stop jobs submitted to a Ray cluster.")

ServerOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="http://HOST:8265",
        help="The cluster's job server: the address of its dashboard.",
    ),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="Certificate to verify an https address with.")
]
IdArgument = Annotated[str, typer.Argument(help="The id that submit printed.", metavar="ID")]


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
            help="What to install on the nodes: code (this package), all (with dependencies) or "
            "nothing. Default: code, or nothing if any node offers a resource silo:NAME.",
        ),
    ] = None,
    with_folder: Annotated[
        bool,
        typer.Option("--with-folder", help="For simulations: also send the tables to all nodes."),
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Resume the run in this folder on the driver's node."),
    ] = None,
    python: Annotated[str, typer.Option(help="The nodes' Python interpreter.")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Run a job on a Ray cluster through Ray's job submission; exits with the job's status."""
    if ship not in (None, "code", "all", "nothing"):
        raise JobError(f"unknown --ship {ship!r}", "Use code, all or nothing.")
    if resume and set_:
        raise JobError(
            "--set has no effect on a resumed run", "It keeps the job that it was started with."
        )
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
        console.print(
            f"the job keeps running; to stop it: blindsum job stop {found.id}", soft_wrap=True
        )
        raise
    _end_as(cluster.job(found.id))


@app.command("list")
def list_(address: ServerOption, ca: CaOption = None, json: JsonOption = False) -> None:
    """Print Blindsum's jobs on the cluster, newest first."""
    jobs = _cluster(address, ca).jobs()
    if json:
        for one in jobs:
            emit("job", **asdict(one))
        return
    table = Sheet("id", "status", "exit status", "started (UTC)", "seconds")
    for one in jobs:
        table.add(one.id, one.status, _or_blank(one.exit_status), _clock(one), _seconds(one))
    show_result(table)


@app.command()
def status(
    id: IdArgument, address: ServerOption, ca: CaOption = None, json: JsonOption = False
) -> None:
    """Print a job's status."""
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
        bool, typer.Option("--follow", help="Print until the job ends, as submit does.")
    ] = False,
) -> None:
    """Print a job's output."""
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
    """Write what submit ships, for use with ray job submit: a wheel and its requirements.txt."""
    from blindsum.infra.wheel import make_wheel, requirements

    made = make_wheel(folder)
    needs = folder / "requirements.txt"
    try:
        needs.write_text("\n".join(requirements()) + "\n")
    except OSError as error:
        raise JobError(f"{needs} cannot be written: {error.strerror}") from None
    environment = {"py_modules": [str(made.absolute())], "pip": str(needs.absolute())}
    typer.echo(
        f"wrote {folder}; for nodes that lack both: ray job submit --runtime-env-json", err=True
    )
    typer.echo(json_text(environment))


@app.command()
def stop(id: IdArgument, address: ServerOption, ca: CaOption = None) -> None:
    """Stop a job as Ctrl-C does: its last model is saved; `submit --resume` continues the run."""
    cluster = _cluster(address, ca)
    if cluster.job(id).over:
        typer.echo(f"{id} has already ended", err=True)
        return
    found = cluster.stop(id)
    typer.echo(f"{found.id}: {found.status}")
    if not found.over:
        raise typer.Exit(1)


def _cluster(address: str, ca: Path | None) -> Cluster:
    from blindsum.infra.submission import Cluster

    socket.setdefaulttimeout(60)  # Ray's client sets none: a cut network would hang
    return Cluster(address, ca)


def _follow(cluster: Cluster, id: str) -> None:
    from blindsum.infra.submission import Unanswered

    try:
        for text in cluster.follow(id):
            typer.echo(text, nl=False)
    except Unanswered:
        console.print(f"{id} may still be running; check with: blindsum job status", soft_wrap=True)
        raise


def _end_as(found: Submitted) -> None:
    last = "\n".join(found.message.splitlines()[-6:])
    if "ModuleNotFoundError: No module named" in last or "is not installed for" in last:
        console.print(
            "the nodes lack Blindsum's dependencies: use --ship all, or nodes that run its image"
        )
    elif found.exit_status and not found.message.startswith("Job entrypoint command"):
        said = (found.message.strip().splitlines() or ["no reason was given"])[-1]
        console.print(f"{found.status}: {said[:300]}", soft_wrap=True)
    if found.exit_status:
        raise typer.Exit(found.exit_status)


def _or_blank(value: int | None) -> str:
    return "" if value is None else str(value)


def _clock(found: Submitted) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.started)) if found.started else ""


def _seconds(found: Submitted) -> str:
    return f"{found.ended - found.started:.0f}" if found.started and found.ended else ""

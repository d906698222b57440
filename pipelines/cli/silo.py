"""`blindsum silo` and `blindsum approve`: a silo's owner decides, on the silo's own machine."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import JobArgument, SetOption, SiloOption
from blindsum.platform.errors import ConsentError, JobError
from blindsum.platform.job import owner as owners
from blindsum.platform.job.file import load_job
from blindsum.platform.job.owner import NOWHERE, OwnerFile, find_owner, owner_home
from blindsum.platform.job.yaml_reader import dump, parse_section

app = typer.Typer(
    no_args_is_help=True, help="Set what this machine allows, as the owner of its silo."
)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The silo name that this machine may act under.")],
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            metavar="NAME=/PATH",
            help="A table and the name that jobs use for it; may repeat.",
        ),
    ],
    state: Annotated[
        Path | None, typer.Option(help="Absolute path of the folder for ledger and identity.")
    ] = None,
    system: Annotated[
        bool, typer.Option("--system", help="Write it for every user: /etc/blindsum/silo.yaml.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Write it here, for an agent that is given this path."),
    ] = None,
) -> None:
    """Write the owner's file: this machine will then take part only in approved jobs."""
    tables = {}
    for text in dataset:
        alias, equals, table = text.partition("=")
        if not equals:
            raise JobError(f"--dataset {text!r} does not have the form NAME=/PATH")
        tables[alias] = {"path": table}
    if state is None and owner_home() == NOWHERE:
        raise JobError("this user has no home folder", "Name a folder: --state /PATH.")
    content = {
        "names": [name],
        "state": str(state or owner_home() / ".blindsum" / "silos" / name),
        "datasets": tables,
        "approved_jobs_only": True,
    }
    parse_section(dump(content), "the owner's file", OwnerFile, "owner's", "")
    path = file.absolute() if file else owners.places()[0 if system else -1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if system else 0o700)
        mode = 0o644 if system else 0o600
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError:
        raise ConsentError(f"{path} already exists", "Edit it, or move it away.") from None
    except OSError as error:
        raise ConsentError(f"{path} cannot be written: {error.strerror}") from None
    with open(opened, "w", encoding="utf-8") as opened_file:
        opened_file.write(dump(content))
    typer.echo(f"wrote {path}")
    for alias, one in tables.items():
        if not Path(one["path"]).exists():
            typer.echo(
                f"warning: there is no file or folder {one['path']} (dataset {alias})", err=True
            )


def show() -> None:
    """Print the owner's file in force on this machine, and its path."""
    owner = find_owner()
    if owner is None:
        typer.echo(
            f"no owner's file at {' or '.join(map(str, owners.places()))}: jobs need no approval "
            "on this machine, and no lifetime limit applies"
        )
        raise typer.Exit(1)
    typer.echo(f"# {owner.path}")
    typer.echo(dump(owner.file.model_dump(exclude_none=True)), nl=False)


def approve(
    job: JobArgument,
    silo: SiloOption,
    runs: Annotated[int, typer.Option(help="How many runs to allow.")] = 1,
    until: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day (UTC); default: in 30 days.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Allow a silo on this machine to take part in this job for a number of runs."""
    from blindsum.actors.approving import approve_job
    from blindsum.platform.job.paths import silo_places
    from blindsum.platform.state.approval import DEFAULT_DAYS

    job_file = load_job(job, set_ or [])
    places_ = silo_places(job_file.silo(silo), str(job_file.folder))
    if places_.owner is None:
        raise ConsentError(
            "this machine has no owner's file, so an approval would have no effect",
            "Write one first: blindsum silo init NAME --dataset NAME=/PATH.",
        )
    end = end_of(until, DEFAULT_DAYS)
    given = approve_job(job_file.job, silo, places_, job_file.folder, runs, end)
    last = datetime.datetime.fromtimestamp(end - 1, datetime.UTC).date()
    typer.echo(f"approved {given.job} for {runs} run{'s' if runs > 1 else ''} until {last}")
    for name, digest in given.code.items():
        typer.echo(f"with the code of {name}, SHA-256 {digest}")


def end_of(until: str | None, days: int) -> float:
    """Return the end of that day, UTC, in seconds since 1970."""
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        day = datetime.date.fromisoformat(until) if until else today + datetime.timedelta(days=days)
    except ValueError:
        raise JobError(f"--until {until!r} is not a date", "Write it as YYYY-MM-DD.") from None
    end = datetime.datetime.combine(day, datetime.time.max, datetime.UTC)
    return end.timestamp()

"""`blindsum silo init`: a silo's owner writes what this machine may take part in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.show.console import console, show_warnings
from blindsum.platform.errors import ConsentError, JobError
from blindsum.platform.job import owner as owners
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
    console.print(
        f"wrote {path}. From now on this machine takes part only in jobs that you approve "
        "(blindsum approve JOB.YAML), under the name given here. The examples and other "
        "simulations of several silos are refused here until the file is moved away",
        soft_wrap=True,
    )
    for alias, one in tables.items():
        if not Path(one["path"]).exists():
            show_warnings([f"there is no file or folder {one['path']} (dataset {alias})"])


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

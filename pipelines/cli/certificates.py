"""`blindsum certificates`: makes certificates for Ray's TLS between the nodes of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Make certificates for TLS between a cluster's nodes; see docs/operations.md.",
)
FolderArgument = Annotated[Path, typer.Argument(help="The authority's folder.", metavar="FOLDER")]
DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")]


@app.command()
def authority(folder: FolderArgument, days: DaysOption = 365) -> None:
    """Create a cluster's certificate authority. Keep its key off the nodes: it can admit any."""
    from blindsum.infra.certificates import CA_KEY, make_authority

    make_authority(folder, days)
    typer.echo(
        f"wrote {folder}; {folder / CA_KEY} can admit any node: keep it off the nodes", err=True
    )


@app.command()
def node(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="The node's name.")],
    address: Annotated[list[str], typer.Option(help="IP or host name of the node; may repeat.")],
    days: DaysOption = 365,
) -> None:
    """Create a node's certificate. docs/operations.md explains how to configure Ray with it."""
    from blindsum.infra.certificates import make_node

    made = make_node(folder, name, address, days)
    typer.echo(f"wrote {made}: copy it to ~/tls on that node", err=True)

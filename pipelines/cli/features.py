"""`blindsum features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import JsonOption, YesOption, agreed, interruptible
from blindsum.pipelines.show.console import console, keep_stdout
from blindsum.pipelines.show.progress import progress
from blindsum.platform.errors import JobError


@interruptible
def features(
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="A PUBLIC table of molecules and labels.")
    ],
    smiles: Annotated[str, typer.Option(help="Its column of SMILES.")] = "smiles",
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A column of labels; may repeat. Default: all columns of only 0, 1 and gaps.",
        ),
    ] = None,
    epsilon: Annotated[
        str, typer.Option(help='Budget of the planned job; "none" compares without privacy.')
    ] = "3",
    delta: Annotated[float, typer.Option(min=1e-12, max=0.1, help="Likewise.")] = 1e-5,
    silos: Annotated[int, typer.Option(min=2, max=64, help="Silos of the planned job.")] = 3,
    records: Annotated[
        int | None,
        typer.Option(
            min=20, help="Training records of each; default: as many as the file gives them."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare only these features; may repeat."),
    ] = None,
    folds: Annotated[int, typer.Option(min=3, max=20, help="Folds by scaffold.")] = 5,
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="Trainings of each setting on each fold.")
    ] = 1,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the best one's sections; default: print."),
    ] = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Choose features and a model on PUBLIC records, under the budget of a planned job."""
    budget = _budget(epsilon)
    with progress("starting", json):
        from blindsum.pipelines.selection.candidates import Plan
        from blindsum.pipelines.selection.command import WARNING, choose_features
        from blindsum.pipelines.selection.public_records import require_public

    require_public(data)
    console.print(WARNING)
    agreed(f"Is every record in {data} public?", yes)
    keep_stdout()
    plan = Plan(silos=silos, records=records, epsilon=budget, delta=delta, smiles=smiles)
    choose_features(data, label or [], plan, only or [], folds, seeds, write, json)


def _budget(text: str) -> float | None:
    if text == "none":
        return None
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1e6:
        raise JobError(f"--epsilon {text!r} is no budget", 'Give a number above 0, or "none".')
    return found

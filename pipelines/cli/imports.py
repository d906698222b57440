"""`blindsum import`: preparations of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import JsonOption, interruptible
from blindsum.pipelines.show.console import keep_stdout
from blindsum.pipelines.show.progress import progress

app = typer.Typer(
    no_args_is_help=True,
    help="Take over what was prepared for MELLODDY-TUNER or SparseChem. See docs/imports.md.",
)

OutOption = Annotated[Path, typer.Option("--out", help="Folder to write.")]
SilosOption = Annotated[
    list[str] | None,
    typer.Option("--silo", metavar="NAME", help="A silo of the job file; repeat for each."),
]


@app.command()
@interruptible
def tuner(
    config: Annotated[
        Path,
        typer.Argument(
            help="TUNER's run parameters (JSON), which name all files; or its parameters.",
            metavar="CONFIG.JSON",
        ),
    ],
    out: OutOption,
    weights: Annotated[
        list[Path] | None, typer.Option(help="T0, the table of assays; may repeat.")
    ] = None,
    activities: Annotated[
        list[Path] | None, typer.Option(help="T1, the activities; may repeat.")
    ] = None,
    structures: Annotated[Path | None, typer.Option(help="T2, the structures.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="T_cat, the consortium's catalogue of assays.")
    ] = None,
    silo: SilosOption = None,
    secret: Annotated[
        Path | None,
        typer.Option(help="The consortium's secret file, for the digests in the job file."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write recipe, sources, table of assays and job from a configuration of MELLODDY-TUNER."""
    with progress("reading", json):
        from blindsum.pipelines.preparation.import_tuner import (
            import_tuner,
            next_step,
            show_imported,
        )

        made = import_tuner(
            config, weights or [], activities or [], structures, catalogue, silo or [], secret, out
        )
    keep_stdout()
    show_imported(made, json)
    _say(made.notes, f"wrote {out}; next: {next_step(out, secret, silo or [])}")


@app.command()
@interruptible
def sparsechem(
    x: Annotated[Path, typer.Option("--x", help="Fingerprints: .npz or .npy.")],
    folding: Annotated[Path, typer.Option(help="The fold of each compound: .npy.")],
    out: OutOption,
    y_class: Annotated[Path | None, typer.Option(help="Classes, -1 and 1: .npz or .npy.")] = None,
    weights_class: Annotated[Path | None, typer.Option(help="Their weights: CSV.")] = None,
    y_regr: Annotated[Path | None, typer.Option(help="Numbers: .npz or .npy.")] = None,
    y_censor: Annotated[
        Path | None, typer.Option(help="Sides of the numbers, -1, 0 and 1: .npz or .npy.")
    ] = None,
    weights_regr: Annotated[Path | None, typer.Option(help="Their weights: CSV.")] = None,
    fold_va: Annotated[int, typer.Option(min=0, help="The fold that the job holds out.")] = 0,
    fold_te: Annotated[
        int | None, typer.Option(min=0, help="A fold to leave out of the table.")
    ] = None,
    fold_inputs: Annotated[
        int | None, typer.Option(min=64, max=65536, help="Fold fingerprints to so many bits.")
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="The catalog_id of every shared task, one a line: the same everywhere."),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Every task is shared: columns are alike everywhere.")
    ] = False,
    silo: SilosOption = None,
    json: JsonOption = False,
) -> None:
    """Write a silo's table, its private tasks and a job from matrices of SparseChem."""
    with progress("reading", json):
        from blindsum.pipelines.preparation.import_sparsechem import (
            import_sparsechem,
            show_sparsechem,
        )
        from blindsum.platform.data.preparation.sparsechem import LabelFiles, SparseChemFiles

        files = SparseChemFiles(
            x=x,
            classes=LabelFiles(y_class, weights_class),
            numbers=LabelFiles(y_regr, weights_regr, y_censor),
            folding=folding,
            left_out=fold_te,
            bits=fold_inputs,
        )
        data = import_sparsechem(files, fold_va, catalogue, shared, silo or [], out)
    keep_stdout()
    show_sparsechem(data, json)
    job = out / "job.yaml"
    _say(data.notes, f"wrote {out}; edit {job}, then run: blindsum check {quote(str(job))}")


def _say(notes: Sequence[str], written: str) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(written, err=True)

"""`blindsum predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blindsum.pipelines.cli.options import JsonOption, interruptible
from blindsum.pipelines.show.console import console, emit, show_warnings
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.evaluation.intervals import with_interval

if TYPE_CHECKING:
    from blindsum.platform.prediction.calibration import Calibrated


@interruptible
def predict(
    model: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run's folder, or the file of a released model."),
    ],
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="The records, in the job's own columns.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help=".parquet, .csv or .feather; default: CSV on stdout."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="LABELLED",
            help="A table with labels too, to which probabilities are calibrated on this machine.",
        ),
    ] = None,
    newest: Annotated[
        bool,
        typer.Option("--newest", help="Use the last round's model, not the average of the rounds."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Apply a released model to a table: a row of predictions for each record."""
    with progress("loading PyTorch", json):
        from blindsum.pipelines.prediction.predict import predict as predict_table
        from blindsum.pipelines.prediction.predict import require_writable, write

    if out:
        require_writable(out)
    found = predict_table(model, table, quiet=json, labelled=calibrate, newest=newest)
    rows, without = found.table.num_rows, sum(found.unpredicted.values())
    if out:
        write(found, out, quiet=json)
        if json:
            emit(
                "predicted",
                out=str(out),
                rows=rows,
                unpredicted=found.unpredicted,
                outside_domain=found.outside,
                **(_figures(found.calibrated) if found.calibrated else {}),
            )
            return
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(found.table, sys.stdout.buffer)
    said_where = f": {out}" if out else ""
    console.print(f"{rows - without} of {rows} records predicted{said_where}", soft_wrap=True)
    for reason, count in found.unpredicted.items():
        console.print(f"  {count} without a prediction: {reason}", soft_wrap=True)
    if found.outside:
        console.print(f"  {found.outside} outside the domain that the job's constants describe")
    if found.calibrated and calibrate:
        _show(found.calibrated, calibrate)


def _figures(found: Calibrated) -> dict[str, object]:
    return {
        "calibrated": {
            name: {**one.figures(), **one.parameters()} for name, one in found.of.items()
        },
        "not_calibrated": dict(found.left),
    }


def _show(found: Calibrated, labelled: Path) -> None:
    """Print what calibration changes, on stderr: without --out, stdout has the predictions."""
    table = Sheet(
        "probabilities of",
        "labels",
        "log loss",
        "calibration error",
        "if perfect",
        title=f"calibrated to {labelled.name}, by cross-validation",
    )
    for name, one in found.of.items():
        for when, by in (("before", one.before), ("after", one.after)):
            table.add(
                f"{name}, {when}",
                str(one.labels),
                with_interval(by.log_loss, by.log_loss_interval),
                with_interval(by.error, by.error_interval),
                f"{by.of_perfect:.3f}",
            )
    console.print(table)
    for name, reason in found.left.items():
        console.print(f"  {name} stays as it is: it {reason}", soft_wrap=True)
    show_warnings([f"{name}: {one.concern}" for name, one in found.of.items() if one.concern])

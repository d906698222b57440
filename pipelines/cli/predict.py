"""`blindsum predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import JsonOption, interruptible
from blindsum.pipelines.show.console import console, emit


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
    json: JsonOption = False,
) -> None:
    """Apply a released model to a table: a row of predictions for each record."""
    from blindsum.pipelines.prediction.predict import predict as predict_table
    from blindsum.pipelines.prediction.predict import require_writable, write

    if out:
        require_writable(out)
    found = predict_table(model, table, quiet=json)
    rows, without = found.table.num_rows, sum(found.unpredicted.values())
    if out:
        write(found, out)
        said = {"rows": rows, "unpredicted": found.unpredicted, "outside_domain": found.outside}
        if json:
            emit("predicted", out=str(out), **said)
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

"""`blindsum predict`: apply a released model to a table, in the terms of its job."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from blindsum.pipelines.show.progress import Shown, progress
from blindsum.platform.data.computing import Computing, granted_cores
from blindsum.platform.data.reading import kind_of, read_table
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.job.csv_section import CsvSection
from blindsum.platform.job.features_section import Columns, Fingerprint
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.paths import MODEL, NEWEST, import_from
from blindsum.platform.prediction.calibration import Calibrated
from blindsum.platform.prediction.labelled import calibrated, label_columns, labels_of
from blindsum.platform.prediction.predictor import OUTSIDE, REASON, Predictor
from blindsum.platform.prediction.released import Released, read_released

T = TypeVar("T")

METADATA = "blindsum.calibration"
"""The key, in the metadata of a Parquet or Feather file, of the scaling by target or task."""

ROWS = 20_000
"""Records predicted at a time, with a sign of progress after each."""


def _write_csv(table: pa.Table, path: str) -> None:
    pyarrow.csv.write_csv(table, path)


WRITERS: dict[str, Callable[[pa.Table, str], None]] = {
    ".parquet": pyarrow.parquet.write_table,
    ".csv": _write_csv,
    ".feather": pyarrow.feather.write_feather,
}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions, and how many records have none.

    `unpredicted` counts records by the reason why they have no prediction; `outside` counts those
    outside the model's domain, None if the features have no known domain. `calibrated` has the
    figures that a calibration is judged by, for whoever has the labels; None without one.
    """

    table: pa.Table
    unpredicted: dict[str, int]
    outside: int | None
    calibrated: Calibrated | None = None


def model_file(model: Path, newest: bool = False) -> Path:
    """Return the file of a released model, given it or its run's folder.

    Args:
        newest: whether to take the last round's model instead of the average.

    Raises:
        JobError: the folder has no released model, or the newest of a file is asked for.
    """
    if newest:
        if not (model / NEWEST).is_file():
            raise JobError(
                f"{model} has no {NEWEST}",
                "Name the folder of a run that released an average: with training.average.kind "
                "none, its model is the newest.",
            )
        return model / NEWEST
    if not model.is_dir():
        return model
    if not (model / MODEL).is_file():
        raise JobError(
            f"{model} has no {MODEL}",
            "Name the folder of a run that released a model (runs/NAME), or the file itself.",
        )
    return model / MODEL


def predict(
    model: Path, path: Path, quiet: bool, labelled: Path | None = None, newest: bool = False
) -> Predicted:
    """Apply a model to a table.

    The result has the table's own columns, except the numbers and fingerprints that are features,
    followed by the predictions.

    Args:
        model: a released model, or its run's folder.
        path: the table, in any kind of file that a silo's table may have.
        quiet: whether to show no progress.
        labelled: a table with labels too, to which probabilities are calibrated.
        newest: whether to use the last round's model of the run instead of the average.

    Raises:
        JobError, ModelError: there is no such model, it is damaged, or it has no probabilities to
            calibrate.
        DataError: a table cannot be read, lacks a column, or has too few labels.
    """
    with progress("reading the model", quiet) as shown:
        return _predict(model_file(model, newest), path, labelled, shown)


def _predict(model: Path, path: Path, labelled: Path | None, shown: Shown) -> Predicted:
    import_from(str(Path.cwd()))  # where the code of a model.factory may lie
    released = read_released(model)
    predictor = Predictor(released)
    if not predictor.model_outputs:
        raise JobError(
            f"{released.terms.run} has no shared task: its model predicts nothing",
            f"Each silo predicts its own tasks with its own {MODEL}, in its state folder.",
        )
    shown.stage(f"reading {path.name}")
    table = _read(path, predictor.numbers, released.terms.csv)
    of = _calibrated(released, predictor, labelled, shown) if labelled else None
    if of:
        predictor = Predictor(released, of.of)
    kept = table.drop_columns(_dropped(released, table))
    if clash := sorted(set(kept.column_names) & set(predictor.outputs)):
        raise DataError(
            f"{path.name}: column '{clash[0]}' has the name of a prediction",
            "Rename it in the table.",
        )
    shown.stage("predicting", table.num_rows)
    found = pa.concat_tables(_in_parts(predictor.predict, table, path, shown))
    for name in found.column_names:
        kept = kept.append_column(name, found.column(name))
    if of:
        scalings = {name: one.parameters() for name, one in of.of.items()}
        about = {**(kept.schema.metadata or {}), METADATA: json.dumps(scalings)}
        kept = kept.replace_schema_metadata(about)
    reasons = Counter(found.column(REASON).drop_null().to_pylist())
    outside = pc.sum(found.column(OUTSIDE)).as_py() or 0 if OUTSIDE in found.column_names else None
    return Predicted(table=kept, unpredicted=dict(reasons), outside=outside, calibrated=of)


def _calibrated(released: Released, predictor: Predictor, path: Path, shown: Shown) -> Calibrated:
    """Calibrate to a labelled table. Raises as `predict`."""
    terms = released.terms
    columns = [*predictor.input_columns, *label_columns(terms)]
    shown.stage(f"reading {path.name}")
    table = read_table(path, [one.name for one in columns if one.type.text_in_csv], terms.csv)
    labels = labels_of(table, terms, path)
    shown.stage("predicting the labelled records", table.num_rows)
    parts = _in_parts(predictor.outputs_of, table, path, shown)
    shown.stage("calibrating")
    return calibrated(np.concatenate(parts), labels, terms)


def _in_parts(
    function: Callable[[pa.Table, Path, Computing], T], table: pa.Table, path: Path, shown: Shown
) -> list[T]:
    """Apply a method of a predictor to so many rows at a time that progress shows."""
    computing, parts = Computing(cores=granted_cores()), []
    for start in range(0, max(table.num_rows, 1), ROWS):
        part = table.slice(start, ROWS)
        parts.append(function(part, path, computing))
        shown.step(part.num_rows)
    return parts


def write(predicted: Predicted, out: Path, quiet: bool) -> None:
    """Write predictions as Parquet, CSV or Feather, by the name's ending.

    Args:
        quiet: whether to show no progress.

    Raises:
        DataError: the ending is another one, or the file exists or cannot be written.
    """
    writer = require_writable(out)
    partial = out.with_name(out.name + ".partial")
    try:
        with progress(f"writing {out.name}", quiet):
            writer(predicted.table, str(partial))
        os.link(partial, out)  # never replaces a file
    except (OSError, pa.ArrowException) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "a column's type"
        raise DataError(
            f"{out} cannot be written: {reason}", "Name another file; .parquet holds every type."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def require_writable(out: Path) -> Callable[[pa.Table, str], None]:
    """Return the function that writes a file of that name.

    Raises:
        DataError: its ending is not one of WRITERS, or the file exists.
    """
    if out.suffix not in WRITERS:
        raise DataError(
            f"{out}: predictions are written as {', '.join(WRITERS)}", "Name such a file."
        )
    if out.exists():
        raise DataError(f"{out} already exists", "Name another file.")
    return WRITERS[out.suffix]


def _read(path: Path, numbers: set[str], csv: CsvSection | None) -> pa.Table:
    """Read the table. Identifiers stay as they are where a file has no types: 007 is not 7."""
    table = read_table(path, (), csv)
    if kind_of(path) not in ("CSV", "SDF", "Parquet folder"):
        return table
    texts = [f.name for f in table.schema if f.name not in numbers and f.type != pa.string()]
    return read_table(path, texts, csv) if texts else table


def _dropped(released: Released, table: pa.Table) -> list[str]:
    """Return the columns that would only repeat the features."""
    section = released.terms.features
    if not isinstance(section, Columns | Fingerprint | Images):
        return []
    return [name for name in table.column_names if name in section.inputs]

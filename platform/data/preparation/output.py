"""The output of a preparation: the silo's table, its private tasks, and the job's data section.

records.parquet      the silo's table, for `silos.NAME.data`
private_tasks.yaml   the silo's private tasks, for `silos.NAME.private_tasks`; only if it has any
data.yaml            the job's data section, the same at every silo
manifest.json        settings and digests, to compare with other silos; public in the consortium
report.json          the numbers of dropped items, with the reasons
rejected_rows.csv    the rows of dropped measurements, with the reason of each; only if there are
                     any. Private to the silo, as is rejected_compounds.csv for compounds
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from blindsum.platform.data.preparation.assemble import Report
from blindsum.platform.data.preparation.manifest import Manifest
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import (
    COMPOUND,
    FOLD,
    SIDE,
    AssayTask,
    Recipe,
    as_tasks,
)
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.prepared_table import PREPARED
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.yaml_reader import dump

REJECTED = ("rejected_rows.csv", "rejected_compounds.csv")
"""The lists of dropped measurements and compounds."""

_SIDES = {-1.0: "<", 0.0: "=", 1.0: ">"}


def records_table(
    labels: pd.DataFrame,
    names: pd.DataFrame,
    features: pa.Table,
    scaffolds: dict[str, str],
    recipe: Recipe,
    tasks: dict[str, AssayTask],
    secret: Secret,
) -> pa.Table:
    """Return a table with one row for each structure with labels, in the order of `features`.

    Args:
        labels: the result of `labels_of`.
        names: columns structure, name.
        features: a stage's table, whose column `text` is the structure.
        tasks: the shared tasks, then the silo's private tasks that have labels.
    """
    structures = features["text"].to_pylist()
    of = names.groupby("structure")["name"].agg(list)
    columns: dict[str, pa.Array] = {
        COMPOUND: pa.array([of[s] for s in structures], pa.list_(pa.string())),
        FOLD: pa.array(
            [secret.fold(scaffolds[s], recipe.folds.count) for s in structures], pa.int16()
        ),
    }
    columns |= prepared_features_of(recipe.features).columns(features, secret)
    places = pd.Series(np.arange(len(structures)), index=structures)
    by_task = dict(tuple(labels.assign(row=labels["structure"].map(places)).groupby("task")))
    for name, task in tasks.items():
        found = by_task.get(name)
        values = np.full(len(structures), np.nan, np.float32)
        if found is not None:
            values[found["row"]] = found["value"]
        columns[name] = pa.array(values, pa.float32(), from_pandas=True)
        if task.kind == "regression":
            sides = np.full(len(structures), None, object)
            if found is not None:
                sides[found["row"]] = found["side"].map(_SIDES)
            columns[name + SIDE] = pa.array(sides, pa.string())
    return pa.table(columns)


def data_section(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Return the job file's data section. It does not depend on the silo."""
    return {
        "features": prepared_features_of(recipe.features).job_section(),
        **({"tasks": _plain(as_tasks(recipe.tasks))} if recipe.tasks else {}),
        "folds": {"kind": "column", "column": FOLD, "held_out": recipe.folds.held_out},
        "prepared": manifest["digests"],
    }


def _plain(tasks: Tasks) -> dict[str, Any]:
    return {
        name: {"kind": task.kind, **task.model_dump(exclude_defaults=True)}
        for name, task in tasks.items()
    }


def write_output(
    folder: Path,
    table: pa.Table,
    own: dict[str, AssayTask],
    recipe: Recipe,
    manifest: Manifest,
    report: Report,
) -> None:
    """Write all files, each completely or not at all, with mode 0600.

    Raises:
        DataError: a file cannot be written.
    """
    metadata = {PREPARED: json.dumps(manifest["digests"])}
    texts = {
        "data.yaml": dump({"data": data_section(recipe, manifest)}),
        "manifest.json": json.dumps(manifest, indent=1),
        "report.json": json.dumps(report.as_dict(), indent=1),
    }
    if own:
        texts["private_tasks.yaml"] = dump(_plain(as_tasks(own)))
    for name, rejected in zip(
        REJECTED, (report.rejected_rows(), report.rejected_structures()), strict=True
    ):
        if len(rejected):
            texts[name] = rejected.to_csv(index=False)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = _opened(folder / "records.parquet.partial")
        with open(partial, "wb") as file:
            with_metadata = table.replace_schema_metadata(metadata)
            pyarrow.parquet.write_table(with_metadata, file, compression="zstd")
        for name, text in texts.items():
            with open(_opened(folder / f"{name}.partial"), "w", encoding="utf-8") as file:
                file.write(text)
        for name in ["records.parquet", *texts]:
            (folder / f"{name}.partial").replace(folder / name)
        # An earlier preparation may have left files that this one does not have.
        for name in {"private_tasks.yaml", *REJECTED} - set(texts):
            (folder / name).unlink(missing_ok=True)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(
            f"{folder} cannot be written: {reason}",
            "Correct this and prepare again: finished computations are kept.",
        ) from None
    finally:
        with suppress(OSError):
            for name in ["records.parquet", *texts]:
                (folder / f"{name}.partial").unlink(missing_ok=True)


def _opened(path: Path) -> int:
    path.unlink(missing_ok=True)  # a leftover file would keep its old mode
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

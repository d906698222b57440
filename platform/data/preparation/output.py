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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from blindsum.platform.data.preparation.manifest import Manifest
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import (
    FOLD,
    AssayTask,
    Recipe,
    as_tasks,
)
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.prepared_table import PREPARED
from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.yaml_reader import dump

REJECTED = ("rejected_rows.csv", "rejected_compounds.csv")
"""The lists of dropped measurements and compounds."""

ROWS_AT_ONCE = 100_000
"""Rows of these lists that are written at a time."""


def data_section(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Return the job file's data section. It does not depend on the silo."""
    return {
        "features": prepared_features_of(recipe.features).job_section(),
        **({"tasks": plain_tasks(as_tasks(recipe.tasks))} if recipe.tasks else {}),
        "folds": {"kind": "column", "column": FOLD, "held_out": recipe.folds.held_out},
        "prepared": manifest["digests"],
    }


def plain_tasks(tasks: Tasks) -> dict[str, Any]:
    """Return tasks as a job file or a file of private tasks has them."""
    return {
        name: {"kind": task.kind, **task.model_dump(exclude_defaults=True)}
        for name, task in tasks.items()
    }


def write_output(
    folder: Path,
    parts: Iterator[pa.Table],
    own: dict[str, AssayTask],
    recipe: Recipe,
    manifest: Manifest,
    report: Report,
) -> None:
    """Write all files, each completely or not at all, with mode 0600.

    Args:
        parts: of the table, at least one; each becomes a row group.

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
        texts["private_tasks.yaml"] = dump(plain_tasks(as_tasks(own)))
    frames = zip(REJECTED, (report.rejected_rows(), report.rejected_structures()), strict=True)
    rejected = {name: frame for name, frame in frames if len(frame)}
    names = ["records.parquet", *texts, *rejected]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = _opened(folder / "records.parquet.partial")
        with open(partial, "wb") as file:
            write_parts(file, parts, metadata)
        for name, text in texts.items():
            with open(_opened(folder / f"{name}.partial"), "w", encoding="utf-8") as file:
                file.write(text)
        for name, frame in rejected.items():
            with open(_opened(folder / f"{name}.partial"), "w", encoding="utf-8") as file:
                frame.to_csv(file, index=False, chunksize=ROWS_AT_ONCE)
        for name in names:
            (folder / f"{name}.partial").replace(folder / name)
        # An earlier preparation may have left files that this one does not have.
        for name in {"private_tasks.yaml", *REJECTED} - set(names):
            (folder / name).unlink(missing_ok=True)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(
            f"{folder} cannot be written: {reason}",
            "Correct this and prepare again: finished computations are kept.",
        ) from None
    finally:
        with suppress(OSError):
            for name in names:
                (folder / f"{name}.partial").unlink(missing_ok=True)


def write_parts(file: BinaryIO, parts: Iterator[pa.Table], metadata: dict[bytes, str]) -> None:
    """Write a table as Parquet; each of its parts, of which there is at least one, becomes a row
    group. Raises OSError, pyarrow.ArrowException."""
    writer: pyarrow.parquet.ParquetWriter | None = None
    try:
        for part in parts:
            with_metadata = part.replace_schema_metadata(metadata)
            if writer is None:
                schema = with_metadata.schema
                writer = pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(with_metadata, row_group_size=max(1, part.num_rows))
    finally:
        if writer is not None:
            writer.close()


def _opened(path: Path) -> int:
    path.unlink(missing_ok=True)  # a leftover file would keep its old mode
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

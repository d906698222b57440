"""`blindsum import sparsechem`: matrices that were prepared for SparseChem, as a silo's table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from blindsum.pipelines.preparation.imported_files import SILOS, job_text, new_folder, write_files
from blindsum.pipelines.show.console import emit, show_result
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.data.preparation.output import plain_tasks, write_parts
from blindsum.platform.data.preparation.recipe import FOLD, as_tasks
from blindsum.platform.data.preparation.sparsechem import (
    SparseChemData,
    SparseChemFiles,
    read_sparsechem,
)
from blindsum.platform.errors import DataError
from blindsum.platform.job.yaml_reader import dump

RECORDS, PRIVATE = "records.parquet", "private_tasks.yaml"


def import_sparsechem(
    files: SparseChemFiles,
    held_out: int,
    catalogue: Path | None,
    all_shared: bool,
    silos: Sequence[str],
    out: Path,
) -> SparseChemData:
    """Read a data set of SparseChem, and write the silo's table, its private tasks, and a job.

    Args:
        held_out: the fold that the job holds out.
        catalogue: a text file with the name of a shared task on each line.
        all_shared: whether every task is shared.
        silos: all silos' names; the first one is this silo's.

    Raises:
        DataError: a file cannot be read or is wrong, or cannot be written.
    """
    data = read_sparsechem(files, _names(catalogue), all_shared)
    own = {name: task for name, task in data.tasks.items() if name not in data.shared}
    shared = {name: data.tasks[name] for name in data.shared}
    section = {
        "features": {"kind": "fingerprint", "bits": data.bits},
        **({"tasks": plain_tasks(as_tasks(shared))} if shared else {}),
        "folds": {"kind": "column", "column": FOLD, "held_out": held_out},
    }
    folder = out / [*silos, *SILOS][0]
    job = job_text("from-sparsechem", silos, section, bool(own))
    texts = {PRIVATE: dump(plain_tasks(as_tasks(own)))} if own else {}
    new_folder(out, ["job.yaml"])
    new_folder(folder, [RECORDS, *texts])
    _write_table(folder / RECORDS, data)
    write_files(folder, texts)
    write_files(out, {"job.yaml": job})
    return data


def _names(path: Path | None) -> list[str]:
    """Return the names in a catalogue, one a line.

    Raises:
        DataError: it cannot be read, or has no name, or one twice.
    """
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(f"{path} cannot be read: {reason}", "Name a text file.") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{path.name} has no name, or a name twice", "Write each shared task once, one a line."
        )
    return names


def _write_table(path: Path, data: SparseChemData) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        opened = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(opened, "wb") as file:
            write_parts(file, data.parts(), {})
        partial.replace(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{path} cannot be written: {reason}", "Correct this.") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def show_sparsechem(data: SparseChemData, as_json: bool = False) -> None:
    """Print how many records, labels and tasks were read."""
    private = len(data.tasks) - len(data.shared)
    numbers = sum(task.kind == "regression" for task in data.tasks.values())
    if as_json:
        emit(
            "imported",
            records=data.records,
            bits=data.bits,
            labels=data.labels,
            shared_tasks=len(data.shared),
            private_tasks=private,
            regression_tasks=numbers,
            notes=data.notes,
        )
        return
    table = Sheet("", "", "", text=True)
    table.add("records", f"{data.records:,}", f"compounds with labels, {data.bits:,} bits each")
    table.add("labels", f"{data.labels:,}", "")
    table.add("tasks", f"{len(data.shared):,}", "shared by all silos")
    table.add("", f"{private:,}", f"private to this silo; {numbers:,} of all are regression")
    show_result(table)

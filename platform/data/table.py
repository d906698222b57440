"""A silo's table: read, checked against the job's contract, split into folds.

Nothing here leaves the silo. An error names the column, its type and the expected type, never a
value, a row or a count: the size of a silo's data is private too. Rows at fault are listed in a
file in the silo's own state folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.columns import Column, refuse_missing, require
from blindsum.platform.data.concerns import concerns, record_digests
from blindsum.platform.data.features import features_of
from blindsum.platform.data.fingerprint import fingerprints
from blindsum.platform.data.labels import (
    class_labels,
    require_labelled,
    target_column,
    task_columns,
    task_labels,
)
from blindsum.platform.data.prepared_table import require_prepared
from blindsum.platform.data.reading import read_table
from blindsum.platform.data.records import Fold, Stored
from blindsum.platform.data.split import folds_of
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks


@dataclass(frozen=True)
class SiloData:
    """One silo's folds. Private to the silo.

    `fingerprint` is a digest of the used columns, by which the ledger knows the dataset. It
    depends neither on the order of rows nor on the program that wrote the file. `earlier` holds
    the digests that earlier versions computed for the same records. `dropped` counts molecules
    that RDKit cannot read. `concerns` says what is odd about the records
    (`blindsum.platform.data.concerns`), `records` has a digest of each.
    """

    train: Fold
    test: Fold
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    records: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return "SiloData(private)"


def load_data(
    path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> SiloData:
    """Read a silo's table and prepare both folds.

    Args:
        path: Parquet, or CSV if the name ends in .csv or .csv.gz.
        rejects: file in which to list the positions of unreadable molecules, mode 0600.
        own: the silo's private tasks.

    Raises:
        DataError: unreadable file, missing column, wrong type, missing or infinite values,
            an unknown class, an unreadable molecule, or an empty fold.
    """
    usable = _usable(path, contract, rejects, own or {})
    table, features = usable.table, usable.features
    if contract.target:
        labels = class_labels(table, contract.target, path)
    else:
        with _unnamed(rejects):
            of_own = task_labels(table, own or {}, path)
        labels = np.concatenate([task_labels(table, contract.tasks or {}, path), of_own], axis=2)
        require_labelled(labels, path)
    test = _held_out(table, contract)
    data = SiloData(
        train=Fold(features[~test], labels[~test]),
        test=Fold(features[test], labels[test]),
        fingerprint=usable.fingerprint,
        dropped=usable.dropped,
        earlier=usable.earlier,
    )
    for name, fold in (("train", data.train), ("test", data.test)):
        if len(fold) == 0:
            raise DataError(
                f"the {name} fold of {path.name} is empty",
                "Change data.folds (salt and test_fraction, or held_out), or give this silo more "
                "data.",
            )
    records = tuple(record_digests(_without_keys(table, contract)))
    return replace(
        data, concerns=concerns(table, contract, data.train, test, records), records=records
    )


def table_fingerprints(
    path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> tuple[str, ...]:
    """Return the fingerprints of a silo's table, the newest first, without computing features.

    Raises:
        DataError: as `load_data`, about the file, its columns and their types.
    """
    table = _checked(path, contract, rejects, own or {})
    with _fitting(path):
        fingerprint, earlier = fingerprints(table)
    return fingerprint, *earlier


def load_molecules(
    path: Path, contract: DataSection, rejects: Path
) -> tuple[list[str], list[str]] | None:
    """Return the SMILES of the training and of the held-out records; private to the silo.

    They stand in the order of `load_data`'s folds. None if the records are not molecules.

    Raises:
        DataError: as `load_data`.
    """
    column = features_of(contract.features).smiles_column
    if column is None:
        return None
    table = _usable(path, contract, rejects, {}).table
    smiles = np.array(table.column(column).to_pylist(), dtype=object)
    test = _held_out(table, contract)
    return smiles[~test].tolist(), smiles[test].tolist()


def _without_keys(table: pa.Table, contract: DataSection) -> pa.Table:
    keys = set(_names(folds_of(contract.folds).columns())) - contract.inputs
    return table.drop_columns(sorted(keys))


def _held_out(table: pa.Table, contract: DataSection) -> npt.NDArray[np.bool_]:
    return folds_of(contract.folds).held_out(table, features_of(contract.features))


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """The table and features of the records that can be read."""

    table: pa.Table
    features: Stored
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...]


def _usable(path: Path, contract: DataSection, rejects: Path, own: Tasks) -> _Usable:
    features = features_of(contract.features)
    table = _checked(path, contract, rejects, own)
    with _fitting(path):
        fingerprint, earlier = fingerprints(table)
        made = features.compute(table)
    dropped = int((~made.usable).sum())
    if dropped:
        _report_rejects(made.usable, rejects)
    if dropped and contract.unparsable == "refuse":
        raise DataError(
            f"column '{features.smiles_column}' of {path.name} holds molecules "
            f"that RDKit cannot read; their rows are listed in {rejects} at the silo",
            "Correct or remove them, or set data.unparsable: drop to train without them.",
        )
    return _Usable(
        table=table.filter(pa.array(made.usable)),
        features=made.features,
        fingerprint=fingerprint,
        dropped=dropped,
        earlier=earlier,
    )


def _checked(path: Path, contract: DataSection, rejects: Path, own: Tasks) -> pa.Table:
    """Read the columns that the contract uses, and check their types and gaps."""
    features, folds = features_of(contract.features), folds_of(contract.folds)
    texts = [column.name for column in folds.columns() if column.type.text_in_csv]
    table = read_table(path, texts)
    if table.num_rows == 0:
        raise DataError(f"{path.name} has no records", "Give this silo data, or leave it out.")
    require_prepared(table, contract.prepared, path)
    features.check(table, path)
    of_tasks, of_own = task_columns(contract.tasks or {}), task_columns(own)
    require(table, of_tasks, path)
    with _unnamed(rejects):
        require(table, of_own, path)
    folds.check(table, path)
    of_target = [target_column(contract.target)] if contract.target else []
    require(table, of_target, path)
    gapless = _names([*features.columns(), *folds.columns(), *of_target])
    used = list(dict.fromkeys([*gapless, *_names([*of_tasks, *of_own])]))
    table = table.select(used).combine_chunks()
    refuse_missing(table.select(gapless), path)
    return table


def used_columns(contract: DataSection) -> list[str]:
    """Return the names of the columns that the contract uses, without a silo's private tasks."""
    features, folds = features_of(contract.features), folds_of(contract.folds)
    of_target = [target_column(contract.target)] if contract.target else []
    of_tasks = task_columns(contract.tasks or {})
    return _names([*features.columns(), *folds.columns(), *of_target, *of_tasks])


def _names(columns: Iterable[Column]) -> list[str]:
    """Return the columns' names, each once."""
    return list(dict.fromkeys(column.name for column in columns))


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Raise an Arrow error about a value as a DataError that tells no value."""
    try:
        yield
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise DataError(
            f"{path.name} holds values that do not fit their columns' types "
            f"({type(error).__name__})",
            "Check text for its encoding (UTF-8) and numbers for their range.",
        ) from None


@contextmanager
def _unnamed(rejects: Path) -> Iterator[None]:
    """Write errors about private tasks at the silo, and raise one that tells nothing about them.

    Others may learn neither the names of private tasks nor how many there are.
    """
    try:
        yield
    except (DataError, pa.ArrowException, ValueError, OverflowError) as error:
        place = rejects.with_name("private_tasks_error.txt")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.touch(mode=0o600)
        place.write_text(f"{error}\n", encoding="utf-8")
        raise DataError(
            "a column of this silo's private tasks is missing or holds wrong values",
            f"The column and the reason are written in {place} at the silo.",
        ) from None


def _report_rejects(usable: npt.NDArray[np.bool_], path: Path) -> None:
    rows = "\n".join(str(row + 1) for row in np.flatnonzero(~usable))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(f"rows that RDKit cannot read, from 1:\n{rows}\n", encoding="utf-8")

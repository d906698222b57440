"""A silo's table: read, checked against the job's contract, split into folds.

Nothing here leaves the silo. An error names the column, its type and the expected type, never a
value, a row or a count: the size of a silo's data is private too. Rows at fault are listed in a
file in the silo's own state folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.at_silo import TABLE_NOTES, told_at_silo, write_at_silo
from blindsum.platform.data.columns import Column, gaps, require
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.concerns import concerns, record_digests
from blindsum.platform.data.enough import nothing_to_score
from blindsum.platform.data.features import Featurised, features_of
from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.fingerprint import fingerprints, kept_fingerprints
from blindsum.platform.data.labels import (
    Labelled,
    Labels,
    class_labels,
    target_column,
    task_columns,
    task_labels,
    unlabelled,
)
from blindsum.platform.data.prepared_table import require_prepared
from blindsum.platform.data.reading import read_table
from blindsum.platform.data.reasons import in_general
from blindsum.platform.data.records import Fold, Stored
from blindsum.platform.data.rejected_rows import Rejected, dropped_rows, list_rejected, refuse
from blindsum.platform.data.split import folds_of
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks


@dataclass(frozen=True)
class SiloData:
    """One silo's folds. Private to the silo.

    `fingerprint` is a digest of the used columns, by which the ledger knows the dataset. It
    depends neither on the order of rows nor on the program that wrote the file. `earlier` holds
    the digests that earlier versions computed for the same records. `dropped` counts records that
    the job says to train without, and labels that were left out of the others. `concerns` says what
    is odd about the records (`blindsum.platform.data.concerns`), `records` has a digest of each.
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
    path: Path,
    contract: DataSection,
    rejects: Path,
    own: Tasks | None = None,
    computing: Computing = ALONE,
) -> SiloData:
    """Read a silo's table and prepare both folds.

    Args:
        path: a file or folder of a kind that `blindsum.platform.data.reading` reads.
        rejects: file in which to list the rows that are refused or dropped, mode 0600.
        own: the silo's private tasks.
        computing: the silo's means.

    Raises:
        DataError: unreadable file, missing column, wrong type, missing or infinite values,
            an unknown class, an unreadable molecule, or an empty fold.
    """
    usable = _usable(path, contract, rejects, own or {}, computing)
    table, features, labels = usable.table, usable.features, usable.labels
    test = _held_out(usable, contract)
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
    odd = concerns(table, contract, data.train, test, records)
    odd += nothing_to_score(data.test.labels, contract.tasks or {})
    return replace(data, concerns=odd, records=records)


def table_fingerprints(
    path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> tuple[str, ...]:
    """Return the fingerprints of a silo's table, the newest first, without computing features.

    Raises:
        DataError: as `load_data`, about the file, its columns and their types.
    """
    table = _checked(path, contract, rejects, own or {})
    found = _not_allowed(table, contract)
    list_rejected(found, table, rejects)
    refuse(found, path.name, rejects)
    with _fitting(path):
        fingerprint, earlier = fingerprints(table)
    return fingerprint, *earlier


def load_molecules(
    path: Path,
    contract: DataSection,
    rejects: Path,
    own: Tasks | None = None,
    computing: Computing = ALONE,
) -> tuple[list[str], list[str]] | None:
    """Return the SMILES of the training and of the held-out records; private to the silo.

    They stand in the order of `load_data`'s folds, with the same private tasks. None if the records
    are not molecules.

    Raises:
        DataError: as `load_data`.
    """
    column = features_of(contract.features).smiles_column
    if column is None:
        return None
    usable = _usable(path, contract, rejects, own or {}, computing)
    smiles = np.array(usable.table.column(column).to_pylist(), dtype=object)
    test = _held_out(usable, contract)
    return smiles[~test].tolist(), smiles[test].tolist()


def _without_keys(table: pa.Table, contract: DataSection) -> pa.Table:
    keys = set(_names(folds_of(contract.folds).columns())) - contract.inputs
    return table.drop_columns(sorted(keys))


def _held_out(usable: _Usable, contract: DataSection) -> npt.NDArray[np.bool_]:
    features = features_of(contract.features)
    return folds_of(contract.folds).held_out(usable.table, features, usable.keys)


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """The table, features, labels and molecules' fold keys of the records in both folds."""

    table: pa.Table
    features: Stored
    keys: Sequence[str] | None
    labels: Labels
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...]


def _usable(
    path: Path, contract: DataSection, rejects: Path, own: Tasks, computing: Computing
) -> _Usable:
    features = features_of(contract.features)
    computing.told(0.0)
    table = _checked(path, contract, rejects, own)
    computing.told(0.0)
    with _fitting(path):
        labelled, of_own = _labelled(table, contract, own, path, rejects)
    shared = [*_not_allowed(table, contract), *labelled.rejected]
    found = [*shared, *of_own]
    list_rejected(found, table, rejects)
    refuse(shared, path.name, rejects)
    with _unnamed(rejects):
        refuse(of_own, path.name, rejects)
    with _fitting(path):
        fingerprint, earlier = kept_fingerprints(table, computing)
        computing.told(0.0)
        made = features.compute(table, computing, contract.folds.molecule_key)
    without = _without_features(made, features.smiles_column or "", contract)
    if without:
        found += without
        list_rejected(found, table, rejects)
        refuse(without, path.name, rejects)
    kept = ~dropped_rows(found, table.num_rows)
    left = kept[made.usable]
    return _Usable(
        table=table.filter(pa.array(kept)),
        features=made.features if left.all() else made.features[left],
        keys=list(compress(made.keys, left)) if made.keys else made.keys,
        labels=labelled.labels[kept],
        fingerprint=fingerprint,
        dropped=int((~kept).sum() + labelled.left_out[kept].sum()),
        earlier=earlier,
    )


def _without_features(made: Featurised, column: str, contract: DataSection) -> list[Rejected]:
    """Return the molecules without features, those with the same reason together."""
    rows: dict[str, list[int]] = {}
    for row, reason in made.reasons.items():
        rows.setdefault(reason, []).append(row)
    return [
        Rejected(
            rows=np.isin(np.arange(len(made.usable)), at),
            column=column,
            fault=f"molecules {in_general([reason])}",
            mend="Correct or remove them, or set data.unparsable: drop to train without them.",
            reason=reason,
            then=contract.unparsable,
        )
        for reason, at in rows.items()
    ]


def _labelled(
    table: pa.Table, contract: DataSection, own: Tasks, path: Path, rejects: Path
) -> tuple[Labelled, list[Rejected]]:
    """Return the labels, those of private tasks last; and the rows that private tasks reject.

    Labels that private tasks leave out are not counted: nothing about them leaves the silo.
    """
    drop = contract.unlabelled == "drop"
    if contract.target:
        return class_labels(table, contract.target, path, drop), []
    known = contract.qualifiers == "drop"
    shared = task_labels(table, contract.tasks or {}, path, known)
    with _unnamed(rejects):
        of_own = task_labels(table, own, path, known)
    labels = np.concatenate([shared.labels, of_own.labels], axis=2)
    rejected = [*shared.rejected]
    wrong = (one.rows.any() for one in [*rejected, *of_own.rejected] if one.then == "refuse")
    if not any(wrong):  # a wrong label would count as a missing one
        rejected.append(unlabelled(labels, drop))
    return Labelled(labels, rejected, shared.left_out), of_own.rejected


@told_at_silo
def _checked(path: Path, contract: DataSection, rejects: Path, own: Tasks) -> pa.Table:
    """Read the columns that the contract uses, and check their types."""
    features, folds = features_of(contract.features), folds_of(contract.folds)
    of_labels, of_own = _label_columns(contract), task_columns(own)
    shared = [*features.columns(), *folds.columns(), *of_labels]
    texts = [column.name for column in [*shared, *of_own] if column.type.text_in_csv]
    notes: list[str] = []
    table = read_table(path, texts, contract.csv, notes.append)
    if notes:
        write_at_silo(rejects.with_name(TABLE_NOTES), "\n".join(notes))
    if table.num_rows == 0:
        raise DataError(f"{path.name} has no records", "Give this silo data, or leave it out.")
    require_prepared(table, contract.prepared, path)
    with _unnamed(rejects):
        table = plain(table, _expected(of_own), path)
    table = plain(table, _expected(shared), path)
    require(table, shared, path, features.without_gaps)
    with _unnamed(rejects):
        require(table, of_own, path)
    used = _names([*shared, *of_own])
    with _fitting(path):
        return features.uniform(table.select(used).combine_chunks())


def _not_allowed(table: pa.Table, contract: DataSection) -> list[Rejected]:
    """Return the rows whose features or fold keys have gaps or values that the job does not
    allow."""
    found = features_of(contract.features).rejected(table)
    told = {one.column for one in found}
    keys = [name for name in _names(folds_of(contract.folds).columns()) if name not in told]
    return found + gaps(table.select(keys))


def used_columns(contract: DataSection) -> list[str]:
    """Return the names of the columns that the contract uses, without a silo's private tasks."""
    features, folds = features_of(contract.features), folds_of(contract.folds)
    return _names([*features.columns(), *folds.columns(), *_label_columns(contract)])


def _label_columns(contract: DataSection) -> list[Column]:
    if contract.target:
        return [target_column(contract.target)]
    return task_columns(contract.tasks or {})


def _expected(columns: Iterable[Column]) -> dict[str, str]:
    return {column.name: column.type.expected for column in columns}


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
        write_at_silo(place, f"{error}\n{getattr(error, 'at_silo', '')}\n")
        raise DataError(
            "a column of this silo's private tasks is missing or holds wrong values",
            f"The column and the reason are written in {place} at the silo.",
        ) from None

"""A silo's table: read, checked against the job's contract, split into folds.

Nothing here leaves the silo. Memory does not grow with the table: it is read part by part, and what
is trained on lies in files without a name once it is large (`blindsum.platform.data.growing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from blindsum.platform.data.checked import checked_parts, fitting, key_columns
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.concerns import concerning_columns, concerns
from blindsum.platform.data.enough import nothing_to_score
from blindsum.platform.data.features import features_of
from blindsum.platform.data.fingerprint import Fingerprint, fingerprints_before
from blindsum.platform.data.growing import GrowingRecords
from blindsum.platform.data.outline import outline_of
from blindsum.platform.data.record_digests import Digests, record_digests
from blindsum.platform.data.record_sample import RecordSample, SampledDigests
from blindsum.platform.data.records import Fold, Stored, StoredLabels
from blindsum.platform.data.rejected_rows import RejectedRows
from blindsum.platform.data.usable import Usable, not_allowed, usable_parts
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
    is odd about the records (`blindsum.platform.data.concerns`), `records` has digests of them.
    `identifiers` are what records are known by in other silos too, if the job asks for overlaps.
    Both folds are empty if other processes hold the records (`blindsum.platform.data.shares`).
    """

    train: Fold
    test: Fold
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    records: SampledDigests = field(default_factory=SampledDigests)
    identifiers: Digests | None = None

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
    train, test = (GrowingFold(computing.scratch) for _ in range(2))
    known, sample, dropped = _Known(computing), RecordSample(), 0
    concerning = concerning_columns(contract)
    for part in usable_parts(path, contract, rejects, own or {}, computing):
        train.append(part, ~part.held_out)
        test.append(part, part.held_out)
        known.add(part.whole, part.whole_digests)
        sample.add(part.table.select(concerning), part.digests, part.held_out)
        dropped += part.dropped
    folds = {"train": train.whole(), "test": test.whole()}
    require_records({name: len(fold) for name, fold in folds.items()}, path)
    with fitting(path):
        fingerprint, *earlier = known.fingerprints()
    outline = outline_of(folds["train"], len(folds["test"]), contract)
    odd = concerns(sample, contract, outline)
    return SiloData(
        train=folds["train"],
        test=folds["test"],
        fingerprint=fingerprint,
        dropped=dropped,
        earlier=tuple(earlier),
        concerns=odd + nothing_to_score(folds["test"].stored_labels, contract.tasks or {}),
        records=sample.known,
    )


def require_records(folds: Mapping[str, int], path: Path) -> None:
    """Raise DataError if a fold has no records.

    Args:
        folds: their numbers of records, by the folds' names.
    """
    for name, records in folds.items():
        if records == 0:
            raise DataError(
                f"the {name} fold of {path.name} is empty",
                "Change data.folds (salt and test_fraction, or held_out), or give this silo more "
                "data.",
            )


class GrowingFold:
    """A fold to which records are appended.

    Args:
        folder: as of `GrowingRecords`.
    """

    def __init__(self, folder: Path | None) -> None:
        self._features = GrowingRecords[Stored](folder)
        self._labels = GrowingRecords[StoredLabels](folder)

    def append(self, part: Usable, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Append the chosen records, bool [records]."""
        self._features.append(part.features[chosen])
        self._labels.append(part.labels[chosen])

    def whole(self) -> Fold:
        """Return all records. Nothing can be appended afterwards."""
        return Fold(self._features.whole(), self._labels.whole())


class _Known:
    """The fingerprints of a table that is read part by part."""

    def __init__(self, computing: Computing = ALONE) -> None:
        self._computing, self._fingerprint = computing, Fingerprint(computing.scratch)
        self._parts = 0
        self._table: pa.Table | None = None

    def add(self, table: pa.Table, digests: Digests) -> None:
        """Take further records."""
        self._fingerprint.add(table.column_names, digests)
        self._parts += 1
        self._table = table if self._parts == 1 else None

    def fingerprints(self) -> tuple[str, ...]:
        """Return the table's fingerprint and, of a table in one part, those that earlier versions
        gave it. They needed the whole table in memory, and knew no pictures."""
        newest, table = self._fingerprint.hexdigest(), self._table
        return newest, *(fingerprints_before(table, self._computing) if table else ())


def table_fingerprints(
    path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> tuple[str, ...]:
    """Return the fingerprints of a silo's table, the newest first, without computing features.

    Raises:
        DataError: as `load_data`, about the file, its columns and their types.
    """
    known, found = _Known(), RejectedRows()
    for table, _, first in checked_parts(path, contract, rejects, own or {}):
        found.begin(table, first)
        found.add(not_allowed(table, contract))
        if not found.refused:
            with fitting(path):
                known.add(table, record_digests(table, key_columns(contract))[0])
    found.finish(path.name, rejects)
    with fitting(path):
        return known.fingerprints()


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
    train, test = list[str](), list[str]()
    for part in usable_parts(path, contract, rejects, own or {}, computing):
        for smiles, is_held_out in zip(
            part.table.column(column).to_pylist(), part.held_out.tolist(), strict=True
        ):
            (test if is_held_out else train).append(smiles)
    return train, test

"""What tells whether two silos hold the same thing: a digest of each record's identifier.

An identifier is a molecule's canonical SMILES, a fold key (a patient's number), or all values of
the record without fold keys. Digests stay in the silo: they confirm a guess, as the identifiers
themselves would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.features import features_of
from blindsum.platform.data.record_digests import SIZE, Digests
from blindsum.platform.data.usable import Usable, usable_parts
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.folds_section import HashFolds
from blindsum.platform.job.labels_section import Tasks

By = Literal["molecule", "key", "record"]


@dataclass(frozen=True)
class Identifiers:
    """Identifiers of a silo's usable records, in the table's order. Private to the silo.

    Attributes:
        digests: of 16 bytes, [records].
        held_out: bool [records].
    """

    digests: Digests
    held_out: npt.NDArray[np.bool_]

    def __repr__(self) -> str:
        return "Identifiers(private)"


def identified_by(contract: DataSection) -> By:
    """Return what records are known by, unless the job says otherwise."""
    if features_of(contract.features).smiles_column is not None:
        return "molecule"
    return "key" if isinstance(contract.folds, HashFolds) else "record"


def load_identifiers(
    path: Path,
    contract: DataSection,
    rejects: Path,
    by: By,
    own: Tasks | None = None,
    computing: Computing = ALONE,
) -> Identifiers:
    """Read a silo's table for the identifiers alone.

    Raises:
        DataError: as `blindsum.platform.data.table.load_data`.
    """
    quiet = Computing(computing.kept, computing.cores, scratch=computing.scratch)
    digests, held_out = [np.zeros(0, f"V{SIZE}")], [np.zeros(0, np.bool_)]
    for part in usable_parts(path, contract, rejects, own or {}, quiet):
        digests.append(_digests(part, contract, by, quiet))
        held_out.append(part.held_out)
    return Identifiers(np.concatenate(digests), np.concatenate(held_out))


def _digests(part: Usable, contract: DataSection, by: By, computing: Computing) -> Digests:
    if by == "record":
        return part.digests
    found = b"".join(
        hashlib.blake2b(text.encode(), digest_size=SIZE, person=by.encode()).digest()
        for text in _texts(part.table, contract, by, computing)
    )
    return np.frombuffer(found, f"V{SIZE}")


def _texts(table: pa.Table, contract: DataSection, by: By, computing: Computing) -> Iterable[str]:
    if by == "key" and isinstance(contract.folds, HashFolds):
        return map(str, table.column(contract.folds.column).to_pylist())
    return _spellings(table, contract, computing)


def _spellings(table: pa.Table, contract: DataSection, computing: Computing) -> Iterator[str]:
    """Yield molecules as canonical SMILES; as they are written if RDKit cannot write one."""
    # RDKit (0.1 s and 45 MiB) is imported only if records are molecules.
    from blindsum.platform.data.molecule_results import computed
    from blindsum.platform.data.molecule_work import FoldKeys

    texts = table.column(features_of(contract.features).smiles_column).cast(pa.string())
    found = computed([FoldKeys("spelling")], texts, computing)["key"]
    for written, canonical in zip(texts.to_pylist(), found.to_pylist(), strict=True):
        yield written if canonical is None else canonical

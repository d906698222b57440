"""The kinds of folds: which records are held out, by a rule that all silos share.

A key (scaffold, cluster, patient number, the record itself) lies in the test fold if
HMAC-SHA256(salt, key), read as a fraction of 1, is below `test_fraction`. A date lies there from a
cut date on. Silos exchange nothing to agree on their folds.

A new kind of folds needs a section in `blindsum.platform.job.folds_section`, a class here, and its
line in `folds_of`.
"""

from __future__ import annotations

import hmac
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import (
    DATE,
    INTEGER,
    INTEGER_KEY,
    TEXT,
    TEXT_KEY,
    Column,
    NeedsColumns,
)
from blindsum.platform.data.dates import as_dates, no_dates
from blindsum.platform.data.feature_kind import FeatureKind
from blindsum.platform.data.record_keys import record_fractions
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.errors import DataError
from blindsum.platform.job.folds_section import (
    ClusterFolds,
    ColumnFolds,
    HashFolds,
    RandomFolds,
    ScaffoldFolds,
    TimeFolds,
)

if TYPE_CHECKING:
    from rdkit.Chem import Mol


class FoldKind(NeedsColumns):
    """A kind of folds: the columns it needs beside the features', and the records it holds out."""

    def uniform(self, table: pa.Table) -> pa.Table:
        """Return a table whose fold column is in one form, whatever file it came from."""
        return table

    def rejected(self, table: pa.Table) -> list[Rejected]:
        """Return the rows whose values in the fold column say no fold; none, for most kinds."""
        return []

    @abstractmethod
    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true if the record is held out.

        Args:
            table: checked, without gaps and with readable molecules only.
            keys: those of the table's molecules (`section.molecule_key`), if they are known.

        Raises:
            DataError: a fold column has a value other than train and test, or the features are not
                made from molecules that scaffold folds need.
        """


@dataclass(frozen=True, kw_only=True)
class ColumnSplit(FoldKind):
    """Folds as a column gives them: `train` and `test`, or numbers of which one is held out."""

    section: ColumnFolds

    def columns(self) -> list[Column]:
        """Return the fold column: integers if a fold is held out by number, else text."""
        type_ = TEXT if self.section.held_out is None else INTEGER
        return [Column(name=self.section.column, type=type_)]

    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true if the column names the held-out fold."""
        column = table.column(self.section.column)
        if self.section.held_out is not None:
            return np.array(pc.equal(column, self.section.held_out), np.bool_)
        values = column.to_pylist()
        if set(values) - {"train", "test"}:
            raise DataError(
                f"column '{self.section.column}' has values other than train and test",
                "Correct them, or choose another kind of data.folds.",
            )
        return np.array([value == "test" for value in values], np.bool_)


@dataclass(frozen=True, kw_only=True)
class HashSplit(FoldKind):
    """Folds by the hash of a key, such as a patient's number."""

    section: HashFolds

    def columns(self) -> list[Column]:
        """Return the column of keys, with the type that the job states for them."""
        type_ = TEXT_KEY if self.section.key == "text" else INTEGER_KEY
        return [Column(name=self.section.column, type=type_)]

    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true if the key's fraction is below the limit."""
        values = table.column(self.section.column).to_pylist()
        return _below(self.section.test_fraction, self.section.salt, map(str, values))


@dataclass(frozen=True, kw_only=True)
class TimeSplit(FoldKind):
    """Folds by a date, such as that of a measurement."""

    section: TimeFolds

    def columns(self) -> list[Column]:
        """Return the column of dates."""
        return [Column(name=self.section.column, type=DATE)]

    def uniform(self, table: pa.Table) -> pa.Table:
        """Return the table with dates; with text unchanged if some of it is no date."""
        at = table.column_names.index(self.section.column)
        return table.set_column(at, self.section.column, as_dates(table.column(at)))

    def rejected(self, table: pa.Table) -> list[Rejected]:
        """Return the rows with text that is no date."""
        odd = no_dates(table.column(self.section.column))
        fault, mend = "text that is not a date", "Write dates as YYYY-MM-DD."
        said = Rejected(rows=odd, column=self.section.column, fault=fault, mend=mend)
        return [said] if odd.any() else []

    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true from the cut date on."""
        cut = pa.scalar(date.fromisoformat(self.section.held_out_from), pa.date32())
        return np.array(pc.greater_equal(table.column(self.section.column), cut), np.bool_)


@dataclass(frozen=True, kw_only=True)
class _MoleculeSplit(FoldKind):
    """Folds by the hash of what a molecule has in common with others."""

    section: ScaffoldFolds | ClusterFolds

    @abstractmethod
    def key(self, smiles: str) -> str:
        """Return a molecule's key, if it is not known."""

    def columns(self) -> list[Column]:
        """Return no column: the molecules are those of the features."""
        return []

    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true if the key's fraction is below the limit."""
        if features.smiles_column is None:  # the job file's validation refuses this already
            raise DataError(f"{self.section.kind} folds need a SMILES column")
        if keys is None:
            keys = [self.key(s) for s in table.column(features.smiles_column).to_pylist()]
        return _below(self.section.test_fraction, self.section.salt, keys)


class ScaffoldSplit(_MoleculeSplit):
    """Folds by the hash of a molecule's scaffold."""

    def key(self, smiles: str) -> str:
        """Return the scaffold."""
        return scaffold_key(smiles)


class ClusterSplit(_MoleculeSplit):
    """Folds by the hash of a molecule's cluster."""

    def key(self, smiles: str) -> str:
        """Return the cluster's leader."""
        return cluster_key(smiles)


@dataclass(frozen=True, kw_only=True)
class RandomSplit(FoldKind):
    """Folds by the hash of a record's features: no column names the record."""

    section: RandomFolds

    def columns(self) -> list[Column]:
        """Return no column: the features' own identify a record."""
        return []

    def held_out(
        self, table: pa.Table, features: FeatureKind, keys: Sequence[str] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return bool [records]: true if the fraction of the record's features is below the
        limit."""
        fractions = record_fractions(table, features, self.section.salt, keys)
        return fractions < self.section.test_fraction


def folds_of(
    section: ScaffoldFolds | ClusterFolds | TimeFolds | HashFolds | ColumnFolds | RandomFolds,
) -> FoldKind:
    """Return the kind of folds that a job's data section asks for."""
    match section:
        case ScaffoldFolds():
            return ScaffoldSplit(section=section)
        case ClusterFolds():
            return ClusterSplit(section=section)
        case TimeFolds():
            return TimeSplit(section=section)
        case HashFolds():
            return HashSplit(section=section)
        case ColumnFolds():
            return ColumnSplit(section=section)
        case RandomFolds():
            return RandomSplit(section=section)
        case _:
            assert_never(section)


def _below(limit: float, salt: str, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
    keys = list(keys)
    below = {key: fraction(salt, key) < limit for key in set(keys)}
    return np.array([below[key] for key in keys], np.bool_)


def scaffold_key(smiles: str) -> str:
    """Return the scaffold of a molecule (`blindsum.platform.data.molecules.scaffold_of`). Atom-map
    numbers do not count. Raises DataError if RDKit cannot read it."""
    # RDKit (0.1 s and 45 MiB) is imported only if folds need scaffolds.
    from blindsum.platform.data.molecules import scaffold_of

    return scaffold_of(_molecule(smiles))


def cluster_key(smiles: str) -> str:
    """Return the cluster of a molecule (`blindsum.platform.data.clusters.cluster_of`). Atom-map
    numbers do not count. Raises DataError if RDKit cannot read it."""
    from blindsum.platform.data.clusters import cluster_of

    return cluster_of(_molecule(smiles))


def _molecule(smiles: str) -> Mol:
    from blindsum.platform.data.molecules import read_molecule

    molecule = read_molecule(smiles)
    if molecule is None:
        raise DataError("folds by scaffold or cluster need molecules that RDKit can read")
    return molecule


def fraction(salt: str, key: str) -> float:
    """Return HMAC-SHA256(salt, key) as a fraction in [0, 1)."""
    digest = hmac.digest(salt.encode(), key.encode(), "sha256")
    return int.from_bytes(digest[:8], "big") / 2**64

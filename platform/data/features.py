"""The kinds of features: plain columns, RDKit descriptors, and fingerprints computed or read.

A new kind of data needs a section in `blindsum.platform.job.features_section`, a class here, and
its line in `features_of`.

Features are scaled by public constants only. Means computed from the silos' data would be a
release outside the privacy plan.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import POSITIONS, TEXT, Column, NeedsColumns, gaps
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_columns import ColumnFeature, column_feature
from blindsum.platform.data.ragged import Bits
from blindsum.platform.data.reasons import NO_KEY
from blindsum.platform.data.records import Stored
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.errors import DataError
from blindsum.platform.job.features_section import Columns, Descriptors, Ecfp, Fingerprint
from blindsum.platform.job.folds_section import MoleculeKey


@dataclass(frozen=True, kw_only=True)
class Featurised:
    """Features and which records have them. Private to the silo.

    `features` is float32 [usable records, features], for fingerprints `Bits`; `usable` is
    bool [records]. `reasons` says of each record without features, by its row from 0, why it has
    none, without quoting it. `keys` are those of the usable molecules' folds, if they were asked
    for.
    """

    features: Stored
    usable: npt.NDArray[np.bool_]
    reasons: Mapping[int, str] = field(default_factory=dict, repr=False)
    keys: Sequence[str] | None = field(default=None, repr=False)


class FeatureKind(NeedsColumns):
    """A kind of features: the columns it needs, and how it computes features from them."""

    @property
    def smiles_column(self) -> str | None:
        """The column of SMILES; None if the records are not molecules."""
        return None

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of features of a record."""

    def uniform(self, table: pa.Table) -> pa.Table:
        """Return a checked table with its columns in one form, whichever program wrote them."""
        return table

    def rejected(self, table: pa.Table) -> list[Rejected]:
        """Return the rows of a checked, uniform table that have gaps where the job allows none, or
        values that it does not allow."""
        return gaps(table.select([column.name for column in self.columns()]))

    @property
    def without_gaps(self) -> list[str]:
        """The columns in which the job allows no gaps."""
        return [column.name for column in self.columns()]

    @abstractmethod
    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Compute the features of a checked, uniform table without rejected rows.

        Args:
            computing: the silo's means; by default one core, and nothing is kept.
            key: of molecules, what folds know them by, to compute it too.

        Raises:
            JobError: RDKit does not have a descriptor, or no public scaling is known for it.
            DataError: a fingerprint is not a list of ascending positions within its width.
        """


@dataclass(frozen=True, kw_only=True)
class ColumnFeatures(FeatureKind):
    """Columns of numbers, dates and categories, one after the other."""

    section: Columns

    @cached_property
    def made_of(self) -> tuple[ColumnFeature, ...]:
        """What each column becomes."""
        return tuple(column_feature(name, one) for name, one in self.section.columns.items())

    @property
    def names(self) -> list[str]:
        """The features' names, in their order."""
        return [name for one in self.made_of for name in one.features]

    @property
    def is_scaled(self) -> npt.NDArray[np.bool_]:
        """Which features are scaled numbers, bool [features]. The others are 0 or 1."""
        return np.array(
            [i == 0 and one.is_scaled for one in self.made_of for i in range(len(one.features))],
            np.bool_,
        )

    @property
    def width(self) -> int:
        """One feature for each number, date and category, and for each indicator of gaps."""
        return sum(len(one.features) for one in self.made_of)

    def columns(self) -> list[Column]:
        """Return the columns."""
        return [one.column for one in self.made_of]

    @property
    def without_gaps(self) -> list[str]:
        """The columns of which the job does not say what a gap counts as."""
        return [one.name for one in self.made_of if one.section.missing is None]

    def uniform(self, table: pa.Table) -> pa.Table:
        """Return the table with each column in one form."""
        at = {name: i for i, name in enumerate(table.column_names)}
        arrays = table.columns
        for one in self.made_of:
            arrays[at[one.name]] = one.uniform(arrays[at[one.name]])
        return pa.Table.from_arrays(arrays, table.column_names, metadata=table.schema.metadata)

    def rejected(self, table: pa.Table) -> list[Rejected]:
        """Return each column's rejected rows."""
        return [
            rejected for one in self.made_of for rejected in one.rejected(table.column(one.name))
        ]

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Make the features of every column; all records are usable."""
        features, start = np.zeros((table.num_rows, self.width), np.float32), 0
        for one in self.made_of:
            end = start + len(one.features)
            one.fill(features[:, start:end], table.column(one.name))
            start = end
        return Featurised(features=features, usable=np.ones(table.num_rows, np.bool_))


@dataclass(frozen=True, kw_only=True)
class FingerprintFeatures(FeatureKind):
    """A column of lists of the positions that are 1."""

    section: Fingerprint

    @property
    def width(self) -> int:
        """The number of bits of a fingerprint."""
        return self.section.bits

    def columns(self) -> list[Column]:
        """Return the column of positions."""
        return [Column(name=self.section.column, type=POSITIONS)]

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Read the positions; all records are usable."""
        lists = table.column(self.section.column).combine_chunks()
        counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        found = lists.flatten().cast(pa.int64())
        positions = found.fill_null(-1).to_numpy(zero_copy_only=False)
        if not self._fit(positions, counts):
            raise DataError(
                f"column '{self.section.column}' has lists that are not ascending positions from "
                f"0 to {self.width - 1}",
                "Check data.features.bits, and that blindsum prepare wrote the table.",
            )
        features = Bits(counts, [positions.astype(np.int32)], self.width)
        return Featurised(features=features, usable=np.ones(table.num_rows, np.bool_))

    def _fit(self, positions: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> bool:
        rises = np.diff(positions) > 0
        begins = np.cumsum(counts)[:-1]
        rises[begins[(begins > 0) & (begins < len(positions))] - 1] = True  # of another record
        inside = (positions >= 0) & (positions < self.width)
        return bool(rises.all() and inside.all())


class MoleculeFeatures(FeatureKind):
    """Features that RDKit computes from a column of SMILES, molecule by molecule."""

    section: Descriptors | Ecfp

    @property
    def smiles_column(self) -> str:
        """The column of SMILES."""
        return self.section.smiles

    def columns(self) -> list[Column]:
        """Return the column of SMILES."""
        return [Column(name=self.smiles_column, type=TEXT)]

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Compute the features of the molecules that RDKit can read."""
        # Here and below, RDKit (0.1 s and 45 MiB) is imported only if records are molecules.
        from blindsum.platform.data.molecule_results import computed
        from blindsum.platform.data.molecule_work import FoldKeys, features_part

        parts = [features_part(self.section), *([FoldKeys(key)] if key else [])]
        texts = table.column(self.smiles_column).cast(pa.string())
        found = computed(parts, texts, computing)
        reason = found["reason"]
        if key:
            no_key = pc.if_else(pc.is_null(found["key"]), NO_KEY[key], None)
            reason = pc.coalesce(reason, no_key)
        usable = pc.is_null(reason)
        rows = np.flatnonzero(~np.array(usable, np.bool_))
        kept = found.filter(usable)
        return Featurised(
            features=self._stored(kept),
            usable=np.array(usable, np.bool_),
            reasons=dict(zip(rows.tolist(), reason.take(rows).to_pylist(), strict=True)),
            keys=kept["key"].to_pylist() if key else None,
        )

    @abstractmethod
    def _stored(self, kept: pa.Table) -> Stored:
        """Return the usable molecules' rows as features [molecules, width]."""


@dataclass(frozen=True, kw_only=True)
class DescriptorFeatures(MoleculeFeatures):
    """RDKit descriptors, scaled."""

    section: Descriptors

    @property
    def width(self) -> int:
        """One feature for each descriptor."""
        return len(self.section.descriptors)

    def _stored(self, kept: pa.Table) -> Stored:
        values = kept["values"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.array(values, np.float32).reshape(len(kept), self.width)


@dataclass(frozen=True, kw_only=True)
class EcfpFeatures(MoleculeFeatures):
    """Extended-connectivity fingerprints."""

    section: Ecfp

    @property
    def width(self) -> int:
        """The number of bits of a fingerprint."""
        return self.section.bits

    def _stored(self, kept: pa.Table) -> Stored:
        lists = kept["positions"].combine_chunks()
        counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        positions = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
        return Bits(counts, [positions], self.width)


def features_of(section: Columns | Descriptors | Ecfp | Fingerprint) -> FeatureKind:
    """Return the kind of features that a job's data section asks for."""
    match section:
        case Columns():
            return ColumnFeatures(section=section)
        case Descriptors():
            return DescriptorFeatures(section=section)
        case Ecfp():
            return EcfpFeatures(section=section)
        case Fingerprint():
            return FingerprintFeatures(section=section)
        case _:
            assert_never(section)

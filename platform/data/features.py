"""The kinds of features: plain columns, RDKit descriptors, fingerprints computed, projected or
read, molecular graphs, pictures, texts, and tensors from a function of the job's own.

A new kind of data needs a section in `blindsum.platform.job.features_section`, a class here, and
its line in `features_of`.

Features are scaled by public constants only. Means computed from the silos' data would be a
release outside the privacy plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import POSITIONS, Column
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_columns import ColumnFeature, column_feature
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.image_features import ImageFeatures
from blindsum.platform.data.molecule_features import (
    DescriptorFeatures,
    EcfpFeatures,
    GraphFeatures,
    KernelFeatures,
    MaccsFeatures,
    ProjectedFeatures,
)
from blindsum.platform.data.own_features import DatasetFeatures
from blindsum.platform.data.ragged import Bits
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.data.text_features import TextFeatures
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.features_section import (
    Columns,
    Descriptors,
    Ecfp,
    Fingerprint,
    Kernel,
    Maccs,
    Projection,
)
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.graphs_section import Graphs
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.model_section import Gapped, Input
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.text_section import Text


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

    @property
    def may_miss(self) -> tuple[bool, ...]:
        """Which features may be missing, NaN: those whose column keeps its gaps."""
        return tuple(one.keeps_gaps for one in self.made_of for _ in one.features)

    @property
    def shape(self) -> Input:
        """The features' number; of records with gaps, `Gapped`."""
        return Gapped(self.width) if any(self.may_miss) else (self.width,)

    def columns(self) -> list[Column]:
        """Return the columns."""
        return [one.column for one in self.made_of]

    @property
    def without_gaps(self) -> list[str]:
        """The columns of which the job does not say what a gap counts as."""
        return [one.name for one in self.made_of if one.section.missing is None]

    def uniform(self, table: pa.Table, folder: Path = Path()) -> pa.Table:
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

    def none(self) -> Bits:
        """Return no bits."""
        return Bits.at([], self.width)

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


def features_of(section: Features) -> FeatureKind:
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
        case Graphs():
            return GraphFeatures(section=section)
        case Images():
            return ImageFeatures(section=section)
        case Kernel():
            return KernelFeatures(section=section)
        case Maccs():
            return MaccsFeatures(section=section)
        case OwnFeatures():
            return DatasetFeatures(section=section)
        case Projection():
            return ProjectedFeatures(section=section)
        case Text():
            return TextFeatures(section=section)
        case _:
            assert_never(section)

"""The kinds of features: plain columns, RDKit descriptors, and fingerprints computed or read.

A new kind of data needs a section in `blindsum.platform.job.features_section`, a class here, and its
line in `features_of`.

Features are scaled by public constants only. Means computed from the silos' data would be a
release outside the privacy plan.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import NUMBER, POSITIONS, TEXT, Column, NeedsColumns
from blindsum.platform.data.records import Stored, bits
from blindsum.platform.errors import DataError
from blindsum.platform.job.features_section import Columns, Descriptors, Ecfp, Fingerprint, Scaling

if TYPE_CHECKING:
    from rdkit import Chem

MAX_SMILES = 1000
"""Longer texts count as unreadable: descriptors of huge molecules take minutes, or crash."""

CLIP = 5.0
"""Scaled features are cut to [-CLIP, CLIP]: one odd record cannot swamp a clipped gradient."""


@dataclass(frozen=True, kw_only=True)
class Featurised:
    """Features and which records have them.

    `features` is float32 [usable records, features], for fingerprints a CSR array; `usable` is
    bool [records].
    """

    features: Stored
    usable: npt.NDArray[np.bool_]


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

    @abstractmethod
    def compute(self, table: pa.Table) -> Featurised:
        """Compute the features of a checked table without gaps.

        Raises:
            JobError: RDKit does not have a descriptor, or no public scaling is known for it.
            DataError: a fingerprint is not a list of ascending positions within its width.
        """


@dataclass(frozen=True, kw_only=True)
class ColumnFeatures(FeatureKind):
    """Numeric columns, scaled."""

    section: Columns

    @property
    def width(self) -> int:
        """One feature for each column."""
        return len(self.section.columns)

    def columns(self) -> list[Column]:
        """Return the scaled columns, each of numbers."""
        return [Column(name=name, type=NUMBER) for name in self.section.columns]

    def compute(self, table: pa.Table) -> Featurised:
        """Scale the columns; all records are usable."""
        columns = [
            _scaled(table.column(name).to_numpy().astype(np.float64), scaling)
            for name, scaling in self.section.columns.items()
        ]
        features = np.stack(columns, axis=1).astype(np.float32)
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

    def compute(self, table: pa.Table) -> Featurised:
        """Read the positions; all records are usable."""
        lists = table.column(self.section.column).combine_chunks()
        found = lists.flatten().cast(pa.int64()).to_numpy(zero_copy_only=False)
        ends = np.cumsum([0, *pc.list_value_length(lists).to_pylist()])
        parts = [found[a:b] for a, b in pairwise(ends)]
        if lists.flatten().null_count or not all(self._fits(part) for part in parts):
            raise DataError(
                f"column '{self.section.column}' has lists that are not ascending positions from "
                f"0 to {self.width - 1}",
                "Check data.features.bits, and that blindsum prepare wrote the table.",
            )
        features = bits(parts, self.width)
        return Featurised(features=features, usable=np.ones(table.num_rows, np.bool_))

    def _fits(self, part: npt.NDArray[np.int64]) -> bool:
        if not len(part):
            return True
        return bool(part[0] >= 0 and part[-1] < self.width and (np.diff(part) > 0).all())


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

    def compute(self, table: pa.Table) -> Featurised:
        """Compute the features of the molecules that RDKit can read."""
        # Here and below, RDKit (0.1 s and 45 MiB) is imported only if records are molecules.
        from blindsum.platform.data.molecules import read_molecule

        of_molecule = self._function()
        usable = np.zeros(table.num_rows, np.bool_)
        found = []
        for row, smiles in enumerate(table.column(self.smiles_column).to_pylist()):
            molecule = read_molecule(smiles) if len(smiles) <= MAX_SMILES else None
            if molecule is None or molecule.GetNumAtoms() == 0:
                continue
            values = of_molecule(molecule)
            usable[row] = bool(np.isfinite(values).all())
            if usable[row]:
                found.append(values)
        return Featurised(features=self._stored(found), usable=usable)

    @abstractmethod
    def _function(self) -> Callable[[Chem.Mol], npt.NDArray[Any]]:
        """Return the function from a molecule to its values; one not finite makes it unusable."""

    @abstractmethod
    def _stored(self, found: Sequence[npt.NDArray[Any]]) -> Stored:
        """Return the usable molecules' values as features [molecules, width]."""


@dataclass(frozen=True, kw_only=True)
class DescriptorFeatures(MoleculeFeatures):
    """RDKit descriptors, scaled."""

    section: Descriptors

    @property
    def width(self) -> int:
        """One feature for each descriptor."""
        return len(self.section.descriptors)

    def _function(self) -> Callable[[Chem.Mol], npt.NDArray[np.float32]]:
        from blindsum.platform.data.descriptors import descriptor_scaling, descriptors

        scalings = descriptor_scaling(self.section)
        unscaled = descriptors(list(scalings))

        def scaled(molecule: Chem.Mol) -> npt.NDArray[np.float32]:
            values = [
                _scaled(np.array(value, np.float64), scaling)
                for value, scaling in zip(unscaled(molecule), scalings.values(), strict=True)
            ]
            return np.array(values, np.float32)

        return scaled

    def _stored(self, found: Sequence[npt.NDArray[np.float32]]) -> Stored:
        return np.array(found, np.float32).reshape(len(found), self.width)


@dataclass(frozen=True, kw_only=True)
class EcfpFeatures(MoleculeFeatures):
    """Extended-connectivity fingerprints."""

    section: Ecfp

    @property
    def width(self) -> int:
        """The number of bits of a fingerprint."""
        return self.section.bits

    def _function(self) -> Callable[[Chem.Mol], npt.NDArray[np.int64]]:
        from blindsum.platform.data.molecules import ecfp

        return ecfp(self.section)

    def _stored(self, found: Sequence[npt.NDArray[np.int64]]) -> Stored:
        return bits(found, self.width)


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


def _scaled(values: npt.NDArray[np.float64], scaling: Scaling) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # infinity is beyond CLIP like any other number
        return np.clip((values - scaling.center) / scaling.scale, -CLIP, CLIP)

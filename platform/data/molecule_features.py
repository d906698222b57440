"""Features that RDKit computes from a column of SMILES."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import TEXT, Column
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.graphs import OF_ATOM, OF_BOND, AtomsAndBonds
from blindsum.platform.data.ragged import Bits, Positions
from blindsum.platform.data.reasons import NO_KEY, in_general
from blindsum.platform.data.records import Stored
from blindsum.platform.job.features_section import Descriptors, Ecfp, Kernel, Maccs, Projection
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.graphs_section import Graphs
from blindsum.platform.job.model_section import Input


class MoleculeFeatures(FeatureKind):
    """Features that RDKit computes from a column of SMILES, molecule by molecule."""

    section: Descriptors | Ecfp | Graphs | Kernel | Maccs | Projection

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

    def unusable(self, reason: str) -> str:
        """Return what is wrong with molecules, and nothing about any of them."""
        return f"molecules {in_general([reason])}"

    @abstractmethod
    def _stored(self, kept: pa.Table) -> Stored:
        """Return the usable molecules' rows as features [molecules, width]."""


class NumberFeatures(MoleculeFeatures):
    """Features that are numbers, `width` of each molecule."""

    section: Descriptors | Kernel | Projection

    def _stored(self, kept: pa.Table) -> Stored:
        return _values(kept, self.width)


@dataclass(frozen=True, kw_only=True)
class DescriptorFeatures(NumberFeatures):
    """RDKit descriptors, scaled."""

    section: Descriptors

    @property
    def width(self) -> int:
        """One feature for each descriptor."""
        return len(self.section.descriptors)


@dataclass(frozen=True, kw_only=True)
class KernelFeatures(NumberFeatures):
    """Kernel principal components."""

    section: Kernel

    @property
    def width(self) -> int:
        """The number of components."""
        return self.section.dimensions


@dataclass(frozen=True, kw_only=True)
class ProjectedFeatures(NumberFeatures):
    """Counts of substructures, projected and scaled."""

    section: Projection

    @property
    def width(self) -> int:
        """The number of dimensions that they are projected to."""
        return self.section.dimensions


class BitFeatures(MoleculeFeatures):
    """Features of 0 and 1, kept by the positions that are 1."""

    section: Ecfp | Maccs

    @property
    def width(self) -> int:
        """The number of bits of a fingerprint."""
        return self.section.bits

    def none(self) -> Stored:
        """Return no bits."""
        return Bits.at([], self.width)

    def _stored(self, kept: pa.Table) -> Stored:
        counts, positions = _lists(kept, "positions")
        return Bits(counts, [positions.astype(np.int32)], self.width)


@dataclass(frozen=True, kw_only=True)
class EcfpFeatures(BitFeatures):
    """Extended-connectivity fingerprints."""

    section: Ecfp


@dataclass(frozen=True, kw_only=True)
class MaccsFeatures(BitFeatures):
    """MACCS keys."""

    section: Maccs


@dataclass(frozen=True, kw_only=True)
class GraphFeatures(MoleculeFeatures):
    """Atoms and bonds."""

    section: Graphs

    @property
    def width(self) -> int:
        """The number of values of the largest molecule."""
        return self.section.size.values

    @property
    def shape(self) -> Input:
        """A graph."""
        return self.section.size

    def none(self) -> Stored:
        """Return no graphs."""
        return AtomsAndBonds.none(self.section.size)

    def _stored(self, kept: pa.Table) -> Stored:
        (_, atoms), (counts, masses) = _lists(kept, "atoms"), _lists(kept, "masses")
        of_bonds, bonds = _lists(kept, "bonds")
        return AtomsAndBonds.of(
            (counts, of_bonds // OF_BOND),
            atoms.reshape(-1, OF_ATOM),
            masses,
            bonds.reshape(-1, OF_BOND),
            self.section.size,
        )


def _values(table: pa.Table, width: int) -> npt.NDArray[np.float32]:
    """Return the column `values` as float32 [records, width], writable."""
    values = table["values"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(values, np.float32).reshape(len(table), width)


def _lists(table: pa.Table, name: str) -> tuple[Positions, npt.NDArray[Any]]:
    """Return the lengths of a column's lists, and all their values."""
    lists = table[name].combine_chunks()
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return counts, lists.flatten().to_numpy(zero_copy_only=False)

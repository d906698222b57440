"""Features that RDKit computes from a column of SMILES."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import TEXT, Column
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.ragged import Bits
from blindsum.platform.data.reasons import NO_KEY, in_general
from blindsum.platform.data.records import Stored
from blindsum.platform.job.features_section import Descriptors, Ecfp
from blindsum.platform.job.folds_section import MoleculeKey


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

    def unusable(self, reason: str) -> str:
        """Return what is wrong with molecules, and nothing about any of them."""
        return f"molecules {in_general([reason])}"

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

    def none(self) -> Stored:
        """Return no bits."""
        return Bits.at([], self.width)

    def _stored(self, kept: pa.Table) -> Stored:
        lists = kept["positions"].combine_chunks()
        counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        positions = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
        return Bits(counts, [positions], self.width)

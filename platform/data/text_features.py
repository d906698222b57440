"""Texts as features: their bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from blindsum.platform.data.columns import TEXT_ONLY, Column
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.ragged import Bytes
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.model_section import Input, Tokens
from blindsum.platform.job.text_section import VOCABULARY, Text


@dataclass(frozen=True, kw_only=True)
class TextFeatures(FeatureKind):
    """A text's first bytes, each as a number from 1; 0 stands for the places after its end."""

    section: Text

    @property
    def width(self) -> int:
        """The number of bytes that count."""
        return self.section.length

    @property
    def shape(self) -> Input:
        """A sequence."""
        return Tokens(self.section.length, VOCABULARY)

    def columns(self) -> list[Column]:
        """Return the column of texts."""
        return [Column(name=self.section.column, type=TEXT_ONLY)]

    def none(self) -> Bytes:
        """Return no texts."""
        return Bytes.of([], self.width)

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Encode the texts; all can be used."""
        texts = table.column(self.section.column).cast(pa.large_string()).cast(pa.large_binary())
        return Featurised(
            features=Bytes.of(texts.to_pylist(), self.section.length),
            usable=np.ones(table.num_rows, np.bool_),
        )

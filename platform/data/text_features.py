"""Texts as features: their bytes, or the tokens of a public tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from blindsum.platform.data.columns import TEXT_ONLY, Column
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.ragged import Bytes, Ids
from blindsum.platform.data.tokenizer_file import text_tokenizer
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.model_section import Input, Tokens
from blindsum.platform.job.text_section import VOCABULARY, Text


@dataclass(frozen=True, kw_only=True)
class TextFeatures(FeatureKind):
    """A text's first bytes or tokens, each as a number from 1; 0 stands for the places after its
    end."""

    section: Text

    @property
    def width(self) -> int:
        """The number of bytes or tokens that count."""
        return self.section.length

    @property
    def shape(self) -> Input:
        """A sequence. Raises ModelError, as `text_tokenizer`."""
        named = self.section.tokenizer
        if named is None:
            return Tokens(self.section.length, VOCABULARY)
        return Tokens(self.section.length, text_tokenizer(named).vocabulary + 1, shift=1)

    def columns(self) -> list[Column]:
        """Return the column of texts."""
        return [Column(name=self.section.column, type=TEXT_ONLY)]

    def none(self) -> Bytes:
        """Return no texts."""
        return Ids.of_each([], self.width) if self.section.tokenizer else Bytes.of([], self.width)

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Encode the texts; all can be used.

        Raises:
            ModelError, DataError: as `text_tokenizer`, and as the tokenizer itself.
        """
        texts, length = table.column(self.section.column).cast(pa.large_string()), self.width
        features: Bytes
        if named := self.section.tokenizer:
            ids = text_tokenizer(named).ids(texts.to_pylist(), length, computing.cores)
            features = Ids.of_each(ids, length)
        else:
            features = Bytes.of(texts.cast(pa.large_binary()).to_pylist(), length)
        return Featurised(features=features, usable=np.ones(table.num_rows, np.bool_))

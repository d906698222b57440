"""What every kind of features has: its columns, its checks, and how it computes features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.columns import NeedsColumns, gaps
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.records import Stored
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.model_section import Input


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

    @property
    def shape(self) -> Input:
        """The shape of a record as a model of one's own gets it."""
        return (self.width,)

    @property
    def most_records(self) -> int | None:
        """The most records to read at a time; None if they are small."""
        return None

    def unusable(self, reason: str) -> str:
        """Return what is wrong with records without features, in words that may leave the silo."""
        return f"records that cannot be used: {reason}"

    def none(self) -> Stored:
        """Return the features of no records."""
        return np.zeros((0, self.width), np.float32)

    def uniform(self, table: pa.Table, folder: Path = Path()) -> pa.Table:
        """Return a checked table with its columns in one form, whichever program wrote them.

        Args:
            folder: of the table, in which files lie that it names.
        """
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

"""Public bins of features: a feature is split only between two of them.

All silos have the same edges, from the job alone. A feature that is 0 or 1 has one edge. Others are
scaled by public constants, so that their edges need not come from data: by default they lie at the
quantiles of a standard normal. The job may give a column its own edges, in the column's unit. If
the job keeps gaps, they have a bin of their own, after all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.features_section import Ecfp, Fingerprint, Maccs

Edges = npt.NDArray[np.float32]
HALF = np.array([0.5], np.float32)


@dataclass(frozen=True)
class Bins:
    """The edges of every feature's bins, ascending, float32. A value belongs to the bin after the
    last edge that it reaches.

    Attributes:
        may_miss: which features may be missing, NaN, bool [features]; empty if none may.
    """

    edges: Sequence[Edges]
    may_miss: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        """The number of features."""
        return len(self.edges)

    @cached_property
    def most(self) -> int:
        """The greatest number of bins of a feature, with the one of gaps."""
        return max(len(one) for one in self.edges) + 1 + self.have_gaps

    @property
    def have_gaps(self) -> bool:
        """Whether the last of `most` bins holds the records in which a feature is missing."""
        return bool(self.may_miss.size)

    def of(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return each value's bin, uint8 [records, features]."""
        found = np.empty(features.shape, np.uint8)
        for column, edges in enumerate(self.edges):
            found[:, column] = np.searchsorted(edges, features[:, column], side="right")
        if self.have_gaps:
            found[np.isnan(features)] = self.most - 1
        return found

    def after(
        self, feature: npt.NDArray[np.float32], threshold: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.intp]:
        """Return the bin after which each split is; those of no split do not count."""
        found = np.zeros(len(feature), np.intp)
        for node in np.flatnonzero(feature >= 0):
            found[node] = np.searchsorted(self.edges[int(feature[node])], threshold[node])
        return found


def bins_of(features: Features, most: int, own: Mapping[str, Sequence[float]]) -> Bins:
    """Return the bins of a job's features.

    Args:
        most: the most bins of a feature.
        own: edges by column, in its unit.
    """
    kind = features_of(features)
    normal = ndtri(np.arange(1, most) / most).astype(np.float32)
    if isinstance(features, (Ecfp, Fingerprint, Maccs)):
        return Bins([HALF] * kind.width)
    if not isinstance(kind, ColumnFeatures):
        return Bins([normal] * kind.width)
    found = []
    for one in kind.made_of:
        first = HALF
        if one.is_scaled:
            given = own.get(one.name)
            first = (
                normal if given is None else _scaled(given, one.section.center, one.section.scale)
            )
        found += [first, *[HALF] * (len(one.features) - 1)]
    may_miss = np.array(kind.may_miss)
    return Bins(found, may_miss) if may_miss.any() else Bins(found)


def _scaled(edges: Sequence[float], center: float, scale: float) -> Edges:
    found: Edges = np.unique((np.asarray(edges, np.float64) - center) / scale).astype(np.float32)
    return found

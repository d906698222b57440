"""Counts of a silo's folds, which show odd data. Those of several shares of a table add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.records import Fold, StoredLabels
from blindsum.platform.data.scaling import CLIP
from blindsum.platform.job.data_section import DataSection

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What is known of both folds together. Private to the silo.

    Attributes:
        train, held_out: the numbers of records.
        labels: of training records, float64 [3, classes or tasks]: how many there are of a class,
            or of a task; the least and the greatest, inf and -inf without any.
        features: of training records, float64 [3, features]: how many values lie at the ends of
            their scale; the least and the greatest. Of columns only: [3, 0] for other features.
    """

    train: int
    held_out: int
    labels: Reals
    features: Reals

    def __repr__(self) -> str:
        return "Outline(private)"

    def __add__(self, other: Outline) -> Outline:
        return Outline(
            train=self.train + other.train,
            held_out=self.held_out + other.held_out,
            labels=_added(self.labels, other.labels),
            features=_added(self.features, other.features),
        )


def outline_of(train: Fold, held_out: int, contract: DataSection) -> Outline:
    """Return the outline of a silo's records, or of a share of them.

    Args:
        held_out: the number of records that are held out.
    """
    return Outline(
        train=len(train),
        held_out=held_out,
        labels=_of_labels(train.stored_labels, contract),
        features=_of_features(train, contract),
    )


def _added(one: Reals, other: Reals) -> Reals:
    least, greatest = np.minimum(one[1], other[1]), np.maximum(one[2], other[2])
    return np.stack([one[0] + other[0], least, greatest])


def _none(width: int) -> Reals:
    return np.repeat([[0.0], [np.inf], [-np.inf]], width, axis=1)


def _of_labels(labels: StoredLabels, contract: DataSection) -> Reals:
    if isinstance(labels, TaskLabels):
        found = _none(labels.width)
        for i, known in enumerate(labels.by_task()):
            if len(known):
                found[:, i] = len(known), known[:, 0].min(), known[:, 0].max()
        return found
    found = _none(len(contract.target.classes) if contract.target else 0)
    for one, count in zip(*np.unique(labels, return_counts=True), strict=True):
        found[:, one] = count, one, one
    return found


def _of_features(train: Fold, contract: DataSection) -> Reals:
    if not isinstance(kind := features_of(contract.features), ColumnFeatures):
        return _none(0)
    found = _none(kind.width)
    for features, _ in train.batches():
        values = features.numpy()
        if len(values):
            at_end = (np.abs(values) >= CLIP).sum(axis=0)
            found = _added(found, np.stack([at_end, values.min(axis=0), values.max(axis=0)]))
    return found

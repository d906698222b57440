"""What statistics are about: the columns of numbers and of categories among features and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.data.molecule_features import DescriptorFeatures
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.features_section import Scaling
from blindsum.platform.job.labels_section import as_written

Reals = npt.NDArray[np.float64]
MISSING = -1
"""The code of a gap in a column of categories."""


@dataclass(frozen=True)
class Number:
    """A column of numbers, or of dates as days since a public one.

    Attributes:
        at: the feature or task that has it, scaled; `gaps`: the feature that tells of gaps, if any.
        is_label: whether it is a task, and not a feature.
        since: of dates.
    """

    name: str
    at: int
    scaling: Scaling
    gaps: int | None = None
    is_label: bool = False
    since: str | None = None


@dataclass(frozen=True)
class Categories:
    """A column of categories: features that are 0 or 1, classes, or a binary task.

    Attributes:
        levels: the categories' names.
        first: the feature of the first, or the task; None for classes.
    """

    name: str
    levels: tuple[str, ...]
    first: int | None
    gaps: int | None = None
    is_label: bool = False


@dataclass(frozen=True)
class Values:
    """Some records, or all. Private to the silo.

    Attributes:
        numbers: float64 [records, numbers], in the columns' units; NaN where missing.
        codes: int64 [records, columns of categories]; MISSING where there is none.
    """

    numbers: Reals
    codes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        return "Values(private)"


@dataclass(frozen=True)
class Variables:
    """The columns of a job that statistics are about."""

    numbers: tuple[Number, ...]
    categories: tuple[Categories, ...]

    @property
    def levels(self) -> int:
        """The number of categories of all columns."""
        return sum(len(one.levels) for one in self.categories)

    def values(self, features: Reals, labels: npt.NDArray[np.float64 | np.int64]) -> Values:
        """Return records as columns.

        Args:
            features: [records, features], scaled.
            labels: classes [records], or tasks [records, 2, tasks], scaled.
        """
        numbers = np.empty((len(labels), len(self.numbers)))
        for i, one in enumerate(self.numbers):
            scaled = labels[:, 0, one.at] if one.is_label else features[:, one.at]
            numbers[:, i] = scaled * one.scaling.scale + one.scaling.center
            if one.gaps is not None:
                numbers[features[:, one.gaps] > 0, i] = np.nan
        codes = np.empty((len(labels), len(self.categories)), np.int64)
        for i, column in enumerate(self.categories):
            codes[:, i] = _codes(column, features, labels)
        return Values(numbers, codes)


def _codes(
    column: Categories, features: Reals, labels: npt.NDArray[np.float64 | np.int64]
) -> npt.NDArray[np.int64]:
    if column.first is None:
        return labels.astype(np.int64)
    if column.is_label:
        values = labels[:, 0, column.first]
        return np.where(np.isnan(values), MISSING, values > 0).astype(np.int64)
    of_levels = features[:, column.first : column.first + len(column.levels)]
    found = np.where(of_levels.any(1), of_levels.argmax(1), MISSING)
    if column.gaps is not None:
        found[features[:, column.gaps] > 0] = MISSING
    return found


def variables_of(data: DataSection) -> Variables:
    """Return the variables of a job: its columns or descriptors, and its labels. Fingerprints,
    graphs, pictures, texts and tensors have none but their labels."""
    features = features_of(data.features)
    numbers, categories = list[Number](), list[Categories]()
    if isinstance(features, ColumnFeatures):
        for found in _of_columns(features):
            numbers.append(found) if isinstance(found, Number) else categories.append(found)
    if isinstance(features, DescriptorFeatures):
        from blindsum.platform.data.descriptors import descriptor_scaling  # imports RDKit

        scalings = descriptor_scaling(features.section)
        numbers += [Number(name, i, one) for i, (name, one) in enumerate(scalings.items())]
    if data.target:
        levels = tuple(map(as_written, data.target.classes))
        categories.append(Categories(data.target.column, levels, None, is_label=True))
    for i, (name, task) in enumerate((data.tasks or {}).items()):
        if task.kind == "regression":
            scaling = Scaling(center=task.center, scale=task.scale)
            numbers.append(Number(name, i, scaling, is_label=True))
        else:
            levels = (as_written(task.negative), as_written(task.positive))
            categories.append(Categories(name, levels, i, is_label=True))
    return Variables(tuple(numbers), tuple(categories))


def _of_columns(features: ColumnFeatures) -> Iterator[Number | Categories]:
    start = 0
    for made in features.made_of:
        section, width = made.section, len(made.features)
        has_gaps = section.missing is not None and section.missing.indicator
        gaps = start + width - 1 if has_gaps else None
        if made.is_scaled:
            scaling = Scaling(center=section.center, scale=section.scale)
            since = section.date.since if section.date else None
            yield Number(made.name, start, scaling, gaps, since=since)
        else:
            levels = tuple(map(as_written, section.categories))
            levels += ("(other)",) if section.other else ()
            yield Categories(made.name, levels, start, gaps)
        start += width

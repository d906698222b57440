"""The names of features, and the units in which a table has them."""

from __future__ import annotations

from dataclasses import dataclass

from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.features_section import Descriptors, Kernel, Maccs, Projection
from blindsum.platform.training.trees.forest import BEYOND


@dataclass(frozen=True)
class Unit:
    """A feature's name, and its value in the column's unit: center + scale x. `since` is the date
    from which days are counted."""

    name: str
    center: float = 0.0
    scale: float = 1.0
    since: str | None = None

    def __call__(self, value: float) -> float:
        """Return a feature's value, or a split's threshold, in the column's unit."""
        return value if value == BEYOND else self.center + self.scale * value


def units_of(features: Features) -> list[Unit]:
    """Return the unit of every feature. Descriptors, components, projections, categories and bits
    are as features have them."""
    kind = features_of(features)
    if isinstance(features, Descriptors):
        return [Unit(name) for name in features.descriptors]
    if isinstance(features, Maccs):
        return [Unit(f"MACCS key {i + 1}") for i in range(kind.width)]
    if isinstance(features, Kernel):
        return [Unit(f"component {i}") for i in range(kind.width)]
    if isinstance(features, Projection):
        return [Unit(f"projection {i}") for i in range(kind.width)]
    if not isinstance(kind, ColumnFeatures):
        return [Unit(f"bit {i}") for i in range(kind.width)]
    found = []
    for one in kind.made_of:
        first, section = one.features[0], one.section
        since = section.date.since if section.date else None
        scaled = Unit(first, section.center, section.scale, since)
        found += [scaled if one.is_scaled else Unit(first), *map(Unit, one.features[1:])]
    return found

"""Survival on public time bins: counts of events and of censored records, by bin and group.

A time counts at the end of its bin, the first end that is not below it. What lies beyond the last
end is censored there. A record without a time, an event or a group that the job names counts
nowhere; every other one counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import JobError
from blindsum.platform.job.statistics_section import Survival
from blindsum.platform.training.statistics.parts import Found, Part
from blindsum.platform.training.statistics.variables import (
    MISSING,
    OTHER,
    Categories,
    Number,
    Values,
    Variables,
)

Reals = npt.NDArray[np.float64]
EVENT, CENSORED = 0, 1
_ROUNDING = 2.0**-22
"""Of a time that was kept as float32, relative to itself and to its column's center: twice."""


class Events(Part):
    """Of each group, the numbers of events and of censored records in each time bin.

    Attributes:
        groups: the groups' names; one without a name if there are none.
        ends: of the bins, float64 [bins].

    Raises:
        JobError: a column that the job names is not of the kind that is needed.
    """

    name, share = "events", 2.0
    norm = 1.0

    def __init__(self, variables: Variables, exact: bool, section: Survival) -> None:
        super().__init__(variables, exact)
        self.section, self.ends = section, np.array(section.edges)
        self._time = _named(variables.numbers, section.time, "time", "a column of numbers")
        if (since := variables.numbers[self._time].since) is not None:
            raise JobError(
                f"model.survival.time {section.time!r} is a date, counted from {since}",
                "Name a column of the time between two dates, as a number.",
            )
        self._event = _named(variables.categories, section.event, "event", "two categories")
        levels = _levels(variables.categories[self._event])
        if len(levels) != 2:
            raise JobError(
                f"model.survival.event {section.event!r} has {len(levels)} categories, not two",
                "Name a column of two, of which the second is the event.",
            )
        self.event, self._group = levels[1], -1
        self.groups: tuple[str, ...] = ("",)
        if section.groups is not None:
            what = "a column of categories"
            self._group = _named(variables.categories, section.groups, "groups", what)
            self.groups = _levels(variables.categories[self._group])
        of_time = variables.numbers[self._time].scaling
        self._limits = self.ends + _ROUNDING * (self.ends + abs(of_time.center))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of groups, of events and censored records, of bins."""
        return len(self.groups), 2, len(self.ends)

    def collect(self, values: Values, found: Found) -> Reals:
        """Count."""
        times, codes = values.numbers[:, self._time], values.codes[:, self._event]
        groups = values.codes[:, self._group] if self._group >= 0 else np.zeros_like(codes)
        there = ~np.isnan(times) & (codes != MISSING) & (codes <= 1)
        there &= (groups != MISSING) & (groups < len(self.groups))
        times, codes, groups = times[there], codes[there], groups[there]
        bins = np.searchsorted(self._limits, times)
        kind = np.where((codes == 1) & (bins < len(self.ends)), EVENT, CENSORED)
        bins = np.minimum(bins, len(self.ends) - 1)
        at = np.ravel_multi_index((groups, kind, bins), self.shape)
        return np.bincount(at, minlength=self.size).astype(np.float64).reshape(self.shape)

    def counts(self, found: Found) -> Reals:
        """Return what was found, float64 [groups, 2, bins]."""
        return found.sums[self.name].reshape(self.shape)


def _levels(column: Categories) -> tuple[str, ...]:
    """Return the categories that the job names."""
    return tuple(one for one in column.levels if one != OTHER)


def _named(columns: Sequence[Number | Categories], name: str, what: str, kind: str) -> int:
    """Return the place of a column among those of its kind. Raises JobError if it is not there."""
    for i, one in enumerate(columns):
        if one.name == name:
            return i
    raise JobError(
        f"model.survival.{what} names {name!r}, which is not {kind} among the features and labels",
        f"Give {what} a column of the job that is {kind}.",
    )

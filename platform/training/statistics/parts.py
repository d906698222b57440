"""The parts of statistics: what each round sums, and how much one record can add.

A part's sums are in natural units: records, or a column's unit. Under differential privacy what a
record adds to a part has an L2 norm of at most `norm`. The parts of a round divide the clip norm:
one with the share s has its sums multiplied by sqrt(s) / norm, so that all that a record adds in a
round has a norm of at most 1. Noise of the standard deviation S in units of the clip norm is then
S norm / sqrt(s) on each sum of the part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.statistics.variables import MISSING, Values, Variables

Reals = npt.NDArray[np.float64]
EXACT_BITS = 40
"""Bits of exact sums: so many silos' sums of them fit into an exact integer (`of_counts`)."""


@dataclass(frozen=True, eq=False)
class Found:
    """What earlier rounds found, the same at every silo.

    Attributes:
        sums: by part, float64 [values].
        deviations: of the noise on each sum of a part; 0 without privacy.
    """

    sums: Mapping[str, Reals]
    deviations: Mapping[str, float]

    @property
    def is_exact(self) -> bool:
        """Whether there is no noise."""
        return not any(self.deviations.values())


class Part(ABC):
    """A part of a round's sums.

    Args:
        exact: whether the job has no differential privacy.

    Attributes:
        name: by which `Found` knows it.
        share: of the clip norm's square, relative to the other parts of the round.
    """

    name: str
    share: float = 1.0

    def __init__(self, variables: Variables, exact: bool) -> None:
        self.variables, self.exact = variables, exact

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of its sums."""

    @property
    @abstractmethod
    def norm(self) -> float:
        """The greatest L2 norm of what a record adds, under differential privacy."""

    @abstractmethod
    def collect(self, values: Values, found: Found) -> Reals:
        """Return the sums of some records. They add up over a silo's records."""

    def sent(self, collected: Reals, random: np.random.Generator) -> Reals:
        """Return what a silo sends for the sums of all its records."""
        return collected

    def units(self, found: Found) -> Reals | float:
        """Return the multiples to which sums are rounded without privacy."""
        return 1.0

    @property
    def size(self) -> int:
        """The number of its sums."""
        return int(np.prod(self.shape))


class Records(Part):
    """The number of records."""

    name, share = "records", 1.0
    shape, norm = (1,), 1.0

    def collect(self, values: Values, found: Found) -> Reals:
        """Count."""
        return np.array([float(len(values))])


class Gaps(Part):
    """For each column of numbers, the number of records without a value."""

    name, share = "gaps", 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of numbers."""
        return (len(self.variables.numbers),)

    @property
    def norm(self) -> float:
        """A record may have a gap in every column."""
        return float(np.sqrt(max(1, self.size)))

    def collect(self, values: Values, found: Found) -> Reals:
        """Count gaps."""
        return np.asarray(np.isnan(values.numbers).sum(0), np.float64)


class Levels(Part):
    """The number of records of each category of each column, one column after the other."""

    name, share = "levels", 2.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all categories."""
        return (self.variables.levels,)

    @property
    def norm(self) -> float:
        """A record has one category of each column."""
        return float(np.sqrt(max(1, len(self.variables.categories))))

    def collect(self, values: Values, found: Found) -> Reals:
        """Count categories."""
        return np.asarray(indicators(values, self.variables).sum(0))


def indicators(values: Values, variables: Variables) -> Reals:
    """Return 1 at each record's categories, float64 [records, levels]."""
    out, start = np.zeros((len(values), variables.levels)), 0
    for i, column in enumerate(variables.categories):
        rows = np.flatnonzero(values.codes[:, i] != MISSING)
        out[rows, start + values.codes[rows, i]] = 1.0
        start += len(column.levels)
    return out


def binned(values: Reals, edges: Reals) -> Reals:
    """Return counts of values between edges, float64 [edges - 1]; those outside count in the first
    or last bin, NaN in none."""
    kept = values[~np.isnan(values)]
    at = np.clip(np.searchsorted(edges, kept, "right") - 1, 0, len(edges) - 2)
    return np.bincount(at, minlength=len(edges) - 1).astype(np.float64)

"""The columns of a regression: an intercept and the features, all from the job alone.

A column of categories becomes a 0 or 1 for each, which add up to the intercept. Its first category
is the reference, with no coefficient of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.descriptors import descriptor_scaling
from blindsum.platform.data.feature_columns import Categories
from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.errors import ModelError
from blindsum.platform.job.features_section import Descriptors
from blindsum.platform.job.schema import Job
from blindsum.platform.training.regression.solving import Chosen, Reals

INTERCEPT = "(intercept)"

MOST_FEATURES = 200
"""A round sums about half the square of their number, and all silos find its eigenvalues."""


@dataclass(frozen=True)
class Design:
    """The columns of a regression, the intercept first.

    Attributes:
        names: of columns, [p].
        center, scale: of columns, [p]: a column is (value - center) / scale.
        used: which columns have a coefficient, bool [p]: not references.
    """

    names: tuple[str, ...]
    center: Reals
    scale: Reals
    used: Chosen

    @classmethod
    def of(cls, job: Job) -> Design:
        """Return a job's columns.

        Raises:
            ModelError: there are more than MOST_FEATURES features.
        """
        kind, section = features_of(job.data.features), job.data.features
        names, constants, used = list[str](), list[tuple[float, float]](), list[bool]()
        if kind.width > MOST_FEATURES:
            raise ModelError(
                f"model.kind regression has {kind.width} features, but at most {MOST_FEATURES}",
                "Choose fewer columns, or model.kind linear, which gives no standard errors.",
            )
        if isinstance(kind, ColumnFeatures):
            for one in kind.made_of:
                more = len(one.features) - 1
                own = (one.section.center, one.section.scale) if one.is_scaled else (0.0, 1.0)
                names += one.features
                constants += [own, *[(0.0, 1.0)] * more]
                used += [not isinstance(one, Categories), *[True] * more]
        elif isinstance(section, Descriptors):
            for name, scaling in descriptor_scaling(section).items():
                names.append(name)
                constants.append((scaling.center, scaling.scale))
                used.append(True)
        center, scale = np.array([(0.0, 1.0), *constants]).T
        return cls((INTERCEPT, *names), center, scale, np.array([True, *used]))

    @property
    def columns(self) -> int:
        """p, the number of columns."""
        return len(self.names)

    @property
    def coefficients(self) -> int:
        """The number of columns that have a coefficient."""
        return int(self.used.sum())

    @property
    def penalised(self) -> Reals:
        """1 for each column whose coefficient `ridge` shrinks, 0 for the intercept, [p]."""
        return np.array([0.0, *[1.0] * (self.columns - 1)])

    def matrix(self, features: npt.NDArray[np.float32]) -> Reals:
        """Return the columns of records, float64 [B, p]; zero where one has no coefficient.

        Args:
            features: float32 [B, p - 1].
        """
        found = np.empty((len(features), self.columns))
        found[:, 0], found[:, 1:] = 1.0, features
        found[:, ~self.used] = 0.0
        return found

    def by_unit(self) -> Reals:
        """Return the matrix that turns coefficients of scaled columns into those by unit of a
        column, [p, p]."""
        found = np.diag(1 / self.scale)
        found[0] -= self.center / self.scale
        return found

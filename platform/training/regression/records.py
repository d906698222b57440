"""One silo's part of a regression: what its records add to a round's sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.clipping.clipped import STABLE
from blindsum.platform.training.regression.design import Design
from blindsum.platform.training.regression.families import Family
from blindsum.platform.training.regression.fit import Fit
from blindsum.platform.training.regression.solving import Reals, packed
from blindsum.platform.training.sums import SumsTrainer
from blindsum.platform.training.vector import Vector

INFORMATION_WEIGHT, SQUARES_WEIGHT = 0.5, 0.5
"""How much of the clip norm information and squared residuals get, where scores get 1: measured in
docs/measurements.md."""


@dataclass(frozen=True)
class Scaling:
    """By what sums are multiplied before they are clipped and noised.

    With it, a record of k features of variance 1 has a norm of about 1, whatever k is.

    Attributes:
        coefficients: the number of columns that have a coefficient.
    """

    family: Family
    coefficients: int

    @cached_property
    def of_score(self) -> float:
        """The weight of scores."""
        return self.family.score_unit / float(np.sqrt(self.coefficients))

    def of_information(self, columns: int) -> Reals:
        """Return the weights of the information, [columns, columns]. Entries off the diagonal count
        twice in its norm, so that the norm of the upper triangle is that of the matrix."""
        on = INFORMATION_WEIGHT * self.family.weight_unit / self.coefficients
        return on * np.where(np.eye(columns, dtype=np.bool_), 1.0, np.sqrt(2))

    @cached_property
    def of_squares(self) -> float:
        """The weight of squared residuals of numbers."""
        return SQUARES_WEIGHT * self.family.score_unit**2

    def bound(self, matrix: Reals, means: Reals) -> Reals:
        """Return the greatest norm of what a record adds, over all labels that it may have, [B].

        Args:
            matrix: the records' columns, [B, p].
        """
        length = np.sqrt((matrix * matrix).sum(1))
        greatest = self.family.greatest(means)
        score = self.of_score * greatest * length
        on = float(self.of_information(1)[0, 0])
        information = on * self.family.weight(means) * length**2
        squares = self.of_squares * greatest**2 if self.family.name == "gaussian" else 0.0
        return np.asarray(np.sqrt(score**2 + information**2 + squares**2))


class RegressionTrainer(SumsTrainer):
    """One silo's part of a regression.

    Args:
        units: of the two integers of which a sum without privacy consists.
        data: its training records. One whose label is missing adds nothing.
        plan: its privacy plan; None without.
        random: draws the noise that the silo adds alone.
    """

    def __init__(
        self,
        job: Job,
        design: Design,
        family: Family,
        scaling: Scaling,
        units: tuple[float, float],
        data: Fold,
        plan: PrivacyPlan | None,
        random: np.random.Generator,
    ) -> None:
        super().__init__(job, plan, random)
        self._design, self._family, self._scaling = design, family, scaling
        self._units, self._data = units, data

    def sums(self, start: Vector, clip: float | None, round: int) -> tuple[Reals, float]:
        """Return the silo's sums at the coefficients of the fit before the round."""
        coefficients = Fit.of(start, self._design.columns).coefficients
        total, unclipped = np.zeros(0), 0.0
        for features, stored in self._data.batches():
            labels = stored.numpy() if stored.ndim == 1 else stored.numpy()[:, 0, 0]
            known = ~np.isnan(labels)
            matrix, own = self._design.matrix(features.numpy()[known]), labels[known]
            found, within = self._of_batch(matrix, own.astype(np.float64), coefficients, clip)
            total, unclipped = found if not total.size else total + found, unclipped + within
        return total if clip is not None else self._as_integers(total), unclipped

    def _of_batch(
        self, matrix: Reals, labels: Reals, coefficients: Reals, clip: float | None
    ) -> tuple[Reals, float]:
        family, scaling = self._family, self._scaling
        predictors = matrix @ coefficients
        means = family.mean(predictors)
        residuals, weights = family.residual(labels, means), family.weight(means)
        if clip is None:
            likelihood = float(family.likelihood(predictors, labels).sum())
            score, information = matrix.T @ residuals, (matrix.T * weights) @ matrix
            return np.concatenate([score, packed(information), [likelihood, len(labels)]]), 0.0
        bound = scaling.bound(matrix, means)
        factors = np.minimum(1.0, clip / (bound + STABLE))
        score = scaling.of_score * (matrix.T @ (factors * residuals))
        information = (matrix.T * (factors * weights)) @ matrix
        information = packed(scaling.of_information(len(information)) * information)
        squares = scaling.of_squares * float(factors @ residuals**2)
        within = float((bound <= clip).sum() - len(bound) / 2)
        of_number = [squares] if family.name == "gaussian" else []
        return np.concatenate([score, information, of_number]), within

    def _as_integers(self, sums: Reals) -> Reals:
        high, low = self._units
        first = np.rint(sums / high)
        return np.concatenate([first, np.rint((sums - first * high) / low)])

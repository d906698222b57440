"""Regression as rounds: what silos sum, and how the total moves the fit on.

A round is a step of Newton's method (iteratively reweighted least squares: McCullagh and Nelder,
1989, 2.5). At the round's coefficients, silos sum the score g = X' (y - mu) and the Fisher
information A = X' W X, and all of them step to the solution of A (b - b0) = g.

Without privacy they also sum the log-likelihood and count records. Sums are exact: each is sent as
two integers, in units of HIGH and of LOW. A step that lowers the likelihood is halved. Once a step
is below TOLERANCE standard errors, or is seen to have no end, nothing moves any more.

Under differential privacy a record adds one vector, (s g, d A, and of numbers r^2), which is scaled
down by a factor that depends on its features and on the round's coefficients, never on its label.
So clipping is a weight, as in Mallows' estimators (Cantoni and Ronchetti, JASA 2001, 3), and
introduces no bias. The first half of the rounds finds the place (of numbers, the first round). In
the others the normal equations are averaged: A and A b are means of Gaussian mechanisms that
together cost what one with less noise would.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np

from blindsum.platform.data.table import SiloData
from blindsum.platform.job.regression_section import Regression, family_of
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, noise_of_total
from blindsum.platform.training.regression.design import Design
from blindsum.platform.training.regression.families import Binomial, Family, Gaussian
from blindsum.platform.training.regression.fit import SEPARATED, Fit
from blindsum.platform.training.regression.records import RegressionTrainer, Scaling
from blindsum.platform.training.regression.solving import (
    dot,
    eigen,
    packed,
    product,
    solve,
    unpacked,
)
from blindsum.platform.training.sums import Reals, Summed
from blindsum.platform.training.vector import Vector

HIGH, LOW = 2.0**-8, 2.0**-44
"""A sum without privacy is a multiple of HIGH plus one of LOW. Together they hold a float64 of up
to 2^29 even between 64 silos. Beside the total, the two sums tell only how often LOW carried over:
a few bits of all silos together."""

TOLERANCE = 1e-11
"""In standard errors. The next step would be about its square."""

QUADRATIC, ENDLESS, SMALL = 0.01, 0.3, 0.01
"""Near a maximum, a step is less than QUADRATIC of the one before. Where classes are separated,
there is none: coefficients grow for ever, and each step is e^-1/2 = 0.6 of the one before. A step
of SMALL standard errors that is more than ENDLESS of the one before shows that."""


class Regressing(Summed):
    """A job's regression: the size of a round's sums, and the next fit.

    Raises:
        ModelError: as `Design.of`.
    """

    def __init__(self, job: Job, section: Regression) -> None:
        self._job, self.section, self.design = job, section, Design.of(job)
        self.private = job.privacy.noise != "none"
        gaussian = family_of(job) == "gaussian"
        bound = section.label_bound if self.private else math.inf
        self.family: Family = Gaussian(bound) if gaussian else Binomial()
        self.scaling = Scaling(self.family, self.design.coefficients)

    @property
    def triangle(self) -> int:
        """The number of values of the information."""
        return self.design.columns * (self.design.columns + 1) // 2

    def values(self, round: int) -> int:
        """Return the number of a round's sums."""
        sums = self.design.columns + self.triangle
        if self.private:
            return sums + int(self.family.name == "gaussian")
        return 2 * (sums + 2)

    @property
    def different_rounds(self) -> int:
        """1: all rounds sum the same."""
        return 1

    def weights(self, round: int) -> Reals:
        """Return the weights of score, information, and squared residuals of numbers, [values]."""
        score = np.full(self.design.columns, self.scaling.of_score)
        information = packed(self.scaling.of_information(self.design.columns))
        squares = [self.scaling.of_squares] * (self.values(round) - len(score) - len(information))
        return np.concatenate([score, information, squares])

    def units(self, model: Vector, round: int) -> Reals:
        """Return HIGH for the first half of the values and LOW for the second."""
        return np.repeat([HIGH, LOW], self.values(round) // 2)

    def trainer(
        self, data: SiloData, plan: PrivacyPlan | None, random: np.random.Generator
    ) -> RegressionTrainer:
        """Return one silo's part, on its training records."""
        units = (HIGH, LOW)
        return RegressionTrainer(
            self._job, self.design, self.family, self.scaling, units, data.train, plan, random
        )

    def moved_on(self, vector: Vector, sums: Reals, round: int) -> Vector:
        """Return the next fit from all silos' sums, [values]."""
        fit = Fit.of(vector, self.design.columns)
        moved = self._noised(fit, sums, round) if self.private else self._exact(fit, sums)
        return moved.vector()

    @cached_property
    def penalty(self) -> Reals:
        """The penalty of each coefficient's square, [p]."""
        return self.section.ridge * self.design.penalised

    def _exact(self, fit: Fit, sums: Reals) -> Fit:
        high, low = sums.reshape(2, -1)
        columns = self.design.columns
        score, information, (likelihood, records) = np.split(
            high + low, [columns, columns + self.triangle]
        )
        at = fit.coefficients
        likelihood -= dot(self.penalty, at * at) / 2
        if same := records == fit.records:  # a silo that was lost takes its records with it
            if fit.converged:
                return fit
            if likelihood < fit.likelihood - 1e-10 * (1 + abs(fit.likelihood)):
                return replace(fit, coefficients=(fit.at + at) / 2)
        whole = unpacked(information, columns)
        slope = score - self.penalty * at
        move, _ = solve(whole + np.diag(self.penalty), slope)
        step = math.sqrt(max(dot(move, slope), 0.0))
        shrinks = step / fit.step if same and fit.step else 0.0
        gaussian = self.family.name == "gaussian"
        squares = -2 * likelihood - dot(self.penalty, at * at)
        squares += dot(move, product(whole, move)) - 2 * dot(move, score)
        return Fit(
            coefficients=at + move,
            at=at,
            information=information,
            right=product(whole, at) + score,
            visited=at,
            records=float(records),
            likelihood=float(likelihood),
            squares=max(squares, 0.0) if gaussian else 0.0,
            step=step,
            shrinks=shrinks,
            converged=1.0 if gaussian else self._converged(step, shrinks),
            counted=1.0,
            visited_squares=dot(at, at),
        )

    @staticmethod
    def _converged(step: float, shrinks: float) -> float:
        if step <= SMALL and shrinks > ENDLESS:
            return SEPARATED
        return float(step <= TOLERANCE and shrinks <= QUADRATIC)

    def first_counted(self) -> int:
        """Return the first round that counts under differential privacy: of numbers the second,
        because a step of theirs arrives; of classes the second half's first."""
        rounds = self._job.training.rounds
        place = 1 if self.family.name == "gaussian" else (rounds + 1) // 2
        return min(place, rounds - 1) + 1

    def _noised(self, fit: Fit, sums: Reals, round: int) -> Fit:
        columns, used = self.design.columns, self.design.used
        score, information, squares = np.split(sums, [columns, columns + self.triangle])
        at = fit.coefficients
        before = fit.counted if round > self.first_counted() else 0.0
        counted = before + 1

        def mean(earlier: Reals, now: Reals) -> Reals:
            return now if not before else (before * earlier + now) / counted

        right = mean(fit.right, product(unpacked(information, columns), at) + score)
        information = mean(fit.information, information)
        some = np.ix_(used, used)
        whole = unpacked(information, columns)[some] + np.diag(self.penalty[used])
        slope = right[used] - product(whole, at[used])
        values, vectors = eigen(whole)
        along = product(vectors.T, slope) / np.maximum(values, self.least(counted))
        coefficients = at.copy()
        coefficients[used] += product(vectors, along)
        return Fit(
            coefficients=coefficients,
            at=at,
            information=information,
            right=right,
            visited=at + (fit.visited if before else 0.0),
            records=0.0,
            likelihood=0.0,
            squares=float(mean(np.array([fit.squares]), squares)[0]) if squares.size else 0.0,
            step=math.sqrt(dot(along * along, np.maximum(values, self.least(counted)))),
            shrinks=0.0,
            converged=0.0,
            counted=counted,
            visited_squares=dot(at, at) + (fit.visited_squares if before else 0.0),
        )

    @cached_property
    def noise(self) -> float:
        """The greatest deviation of the noise on a round's total, in the units of `weights`.

        It is rounded to three digits: silos plan each on its own processor.
        """
        return float(f"{noise_of_total(self._job):.3g}")

    @property
    def noise_of_score(self) -> float:
        """The deviation of the noise on each score of a round."""
        return self.noise / self.scaling.of_score

    @property
    def noise_of_information(self) -> float:
        """The deviation of the noise on the diagonal of a round's information. Off the diagonal it
        is smaller by the square root of 2."""
        return float(self.noise / self.scaling.of_information(1)[0, 0])

    def least(self, counted: float) -> float:
        """Return below which eigenvalues of the information count as this value: the norm of the
        noise on its mean over so many rounds (Anderson, Guionnet and Zeitouni, 2010, 2.1)."""
        of_mean = self.noise_of_information / math.sqrt(counted)
        return of_mean * math.sqrt(2 * self.design.coefficients)

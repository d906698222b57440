"""Standard errors, intervals and p-values of a fit.

Without privacy they are the usual ones: of the inverse Fisher information times the dispersion,
with Student's t for numbers and the normal distribution for classes.

Under differential privacy the estimate is b = M A b0 + ..., with M the inverse of the information
whose small eigenvalues are raised to the norm of its noise. Let b* be the truth, d = b0 - b* where
a round's sums were taken, e and E the noise on score and information. Then

    b - b* = M (s + e + E d),    s the score at the truth, of variance A at most

so that the covariance is M (phi A + (var e + var E |d|^2) I) M, the delta method with the noise's
known variance. A record that was weighed down adds less to the variance of s than to A: errors are
on the safe side. What remains is E in A itself. Where it is as large as the smallest eigenvalue of
A, no error can be given.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from blindsum.platform.job.schema import Job
from blindsum.platform.training.regression.fit import SEPARATED, Fit
from blindsum.platform.training.regression.fitting import ENDLESS, Regressing
from blindsum.platform.training.regression.solving import Chosen, Reals, eigen, solve, unpacked

LEAST_EIGENVALUE = 0.5
"""The smallest eigenvalue of the noised information, as a share of its noise's norm, with which
errors are given: measured in docs/measurements.md."""

EARLY = 8
"""Rounds after which steps that shrink no faster than ENDLESS are said to have no end."""

_MOST_LOG = 700.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One coefficient. Errors, and what follows from them, are None where there are none."""

    coefficient: float
    standard_error: float | None
    statistic: float | None
    p_value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A column of the regression: its estimate by unit of the column, and by scaled unit.

    Attributes:
        estimate: None for a column without a coefficient of its own.
        odds_ratio, odds_low, odds_high: of classes only, by unit of the column.
    """

    name: str
    estimate: Estimate | None
    scaled: Estimate | None
    odds_ratio: float | None
    odds_low: float | None
    odds_high: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What a fit says.

    Attributes:
        records: None under differential privacy, which protects their number.
        degrees: of freedom of Student's t; None for the normal distribution.
        dispersion: the residual variance of numbers in their own unit, squared; 1 of classes.
        errors: which noise the standard errors contain, in a line.
        notes: what a reader has to know before using the figures.
    """

    family: str
    level: float
    ridge: float
    records: int | None
    converged: bool | None
    log_likelihood: float | None
    dispersion: float | None
    degrees: int | None
    errors: str
    notes: list[str]
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)


def infer(job: Job, regressing: Regressing, fit: Fit) -> Inference:
    """Return what a job's fit says."""
    found = (_Noised if regressing.private else _Exact)(job, regressing, fit)
    task = next(iter((job.data.tasks or {}).values()), None)
    gaussian = regressing.family.name == "gaussian"
    scale, center = (task.scale, task.center) if gaussian and task else (1.0, 0.0)
    by_unit = scale * regressing.design.by_unit()
    raw = by_unit @ fit.coefficients
    raw[0] += center
    errors, scaled_errors = (
        np.sqrt(np.maximum(np.diag(turn @ found.covariance @ turn.T), 0.0))
        for turn in (by_unit, np.eye(len(raw)))
    )
    rows = []
    for i, name in enumerate(regressing.design.names):
        if not found.kept[i]:
            rows.append(_without(name, found.reference(i)))
            continue
        own = found.estimate(raw[i], errors[i])
        odds = [
            None if gaussian or one is None else _exp(one)
            for one in (own.coefficient, own.low, own.high)
        ]
        rows.append(
            Row(
                name=name,
                estimate=own,
                scaled=found.estimate(fit.coefficients[i], scaled_errors[i]),
                odds_ratio=odds[0],
                odds_low=odds[1],
                odds_high=odds[2],
            )
        )
    return Inference(
        family=regressing.family.name,
        level=regressing.section.level,
        ridge=regressing.section.ridge,
        records=None if regressing.private else int(fit.records),
        converged=None if regressing.private else fit.converged == 1,
        log_likelihood=found.likelihood(scale),
        dispersion=None if found.dispersion is None else found.dispersion * (scale**2),
        degrees=found.degrees,
        errors=found.errors,
        notes=found.notes,
        rows=rows,
    )


def _without(name: str, note: str) -> Row:
    return Row(
        name=name,
        estimate=None,
        scaled=None,
        odds_ratio=None,
        odds_low=None,
        odds_high=None,
        note=note,
    )


def _exp(value: float) -> float | None:
    return math.exp(value) if abs(value) < _MOST_LOG else None


class _Found:
    """What exact and noised fits have in common.

    Attributes:
        kept: which columns have a coefficient, [p].
        covariance: of the coefficients of scaled columns, [p, p].
        valid: whether there are errors.
    """

    errors: str
    covariance: Reals
    dispersion: float | None
    degrees: int | None = None

    def __init__(self, job: Job, regressing: Regressing, fit: Fit) -> None:
        self._regressing, self._fit, self._job = regressing, fit, job
        self.notes: list[str] = []
        self.valid = True
        self.kept: Chosen = regressing.design.used.copy()
        self.information = unpacked(fit.information, regressing.design.columns)
        if regressing.section.ridge:
            self.notes.append(
                "model.ridge pulls coefficients towards 0: errors and intervals do not contain "
                "that bias"
            )

    def withhold(self, why: str) -> None:
        """Give no errors, and say why."""
        self.valid = False
        self.notes.append(f"no standard errors: {why}")

    def reference(self, column: int) -> str:
        """Return why a column has no coefficient of its own."""
        if not self._regressing.design.used[column]:
            return "the reference of its column's categories"
        return "a combination of the columns before it, or the same for all records"

    def likelihood(self, scale: float) -> float | None:
        """Return the log-likelihood, with its constants, of labels in their own unit."""
        return None

    def estimate(self, coefficient: float, error: float) -> Estimate:
        """Return one coefficient with its error and what follows from it."""
        if not self.valid or not (math.isfinite(error) and error > 0):
            return Estimate(
                coefficient=float(coefficient),
                standard_error=None,
                statistic=None,
                p_value=None,
                low=None,
                high=None,
            )
        known = stats.norm if self.degrees is None else stats.t(self.degrees)
        reach = float(known.ppf((1 + self._regressing.section.level) / 2)) * error
        statistic = coefficient / error
        return Estimate(
            coefficient=float(coefficient),
            standard_error=float(error),
            statistic=float(statistic),
            p_value=float(2 * known.sf(abs(statistic))),
            low=float(coefficient - reach),
            high=float(coefficient + reach),
        )


class _Exact(_Found):
    """Of a fit without privacy."""

    errors = "no differential privacy: errors are those of the fit on all silos' records together"

    def __init__(self, job: Job, regressing: Regressing, fit: Fit) -> None:
        super().__init__(job, regressing, fit)
        columns, penalty = regressing.design.columns, np.diag(regressing.penalty)
        _, self.kept = solve(self.information + penalty, np.zeros(columns))
        some, count = np.ix_(self.kept, self.kept), int(self.kept.sum())
        self.covariance, self.dispersion = np.zeros((columns, columns)), 1.0
        if regressing.family.name == "gaussian":
            self.degrees = int(fit.records) - count
            self.dispersion = fit.squares / self.degrees if self.degrees > 0 else None
        self._judge(count)
        if self.valid and self.dispersion is not None:
            scale = 1 / np.sqrt(np.diag(self.information + penalty)[self.kept])
            inverse = np.linalg.inv((self.information + penalty)[some] * scale[:, None] * scale)
            inverse = inverse * scale[:, None] * scale
            if regressing.section.ridge:
                inverse = inverse @ self.information[some] @ inverse
            self.covariance[some] = self.dispersion * inverse
        else:
            self.degrees = None

    def _judge(self, count: int) -> None:
        fit = self._fit
        if int(fit.records) <= count:
            self.withhold(f"{int(fit.records)} records are too few for {count} coefficients")
        elif self.dispersion == 0.0:
            self.withhold("the columns give the label exactly")
        elif fit.converged == SEPARATED or (
            not fit.converged and fit.shrinks > ENDLESS and self._job.training.rounds >= EARLY
        ):
            self.withhold(
                "some columns separate the classes, perfectly or in part, and coefficients grow "
                f"without end, above all that of {self._growing()}. Set model.ridge, or leave out "
                "what tells the class"
            )
        elif not fit.converged:
            self.withhold(
                f"the fit has not converged, its last step was {fit.step:.2g} standard errors "
                "long. Raise training.rounds"
            )

    def _growing(self) -> str:
        moved = np.abs(self._fit.coefficients - self._fit.at)
        moved = moved * np.sqrt(np.maximum(np.diag(self.information), 0.0))
        return self._regressing.design.names[int(moved.argmax())]

    def likelihood(self, scale: float) -> float | None:
        """Return the log-likelihood, as statsmodels does."""
        fit = self._fit
        if self._regressing.family.name == "binomial":
            penalty = float(self._regressing.penalty @ fit.at**2) / 2
            return fit.likelihood + penalty
        if not (fit.squares and fit.records):
            return None
        variance = scale**2 * fit.squares / fit.records
        return float(-fit.records / 2 * (math.log(2 * math.pi * variance) + 1))


class _Noised(_Found):
    """Of a fit under differential privacy."""

    errors = (
        "standard errors, intervals and p-values contain the noise of differential privacy and the "
        "chance of the sample"
    )

    def __init__(self, job: Job, regressing: Regressing, fit: Fit) -> None:
        super().__init__(job, regressing, fit)
        columns, used, counted = regressing.design.columns, self.kept, max(fit.counted, 1.0)
        some = np.ix_(used, used)
        noised = self.information[some]
        values, vectors = eigen(noised)
        least = regressing.least(counted)
        if float(values.min()) < LEAST_EIGENVALUE * least:
            self.withhold(
                "the noise on the information is as large as its smallest eigenvalue. It takes "
                "more records, fewer or less correlated columns, or a larger epsilon"
            )
        positive = (vectors * np.maximum(values, 0.0)) @ vectors.T
        values, vectors = eigen(noised + np.diag(regressing.penalty[used]))
        inverse = (vectors / np.maximum(values, least)) @ vectors.T
        away = fit.visited_squares / counted - 2 * float(fit.visited @ fit.coefficients) / counted
        away += float(fit.coefficients @ fit.coefficients)
        noise = regressing.noise_of_score**2
        noise += regressing.noise_of_information**2 * max(away, 0.0)
        self.dispersion = self._dispersion(counted)
        middle = self.dispersion * positive + noise / counted * np.eye(len(noised))
        self.covariance = np.zeros((columns, columns))
        self.covariance[some] = inverse @ middle @ inverse

    def _dispersion(self, counted: float) -> float:
        """Return the variance of residuals, one deviation of its noise above what was found."""
        regressing, fit = self._regressing, self._fit
        if regressing.family.name == "binomial":
            return 1.0
        noise = regressing.noise / regressing.scaling.of_squares / math.sqrt(counted)
        records = max(float(fit.information[0]), regressing.least(counted))
        return max(fit.squares, 0.0) / records + noise / records

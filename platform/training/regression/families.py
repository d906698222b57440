"""Families of regressions with their canonical links (McCullagh and Nelder, 1989, table 2.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from scipy.special import expit, log_expit

from blindsum.platform.training.regression.solving import Reals


class Family(ABC):
    """A family. Predictors, labels and what follows from them are float64 [B].

    Attributes:
        name: as in the job.
        score_unit, weight_unit: by what scores and information are multiplied before they are
            clipped, so that both are about 1 for a record of usual size.
    """

    name: Literal["binomial", "gaussian"]
    score_unit: float
    weight_unit: float

    @abstractmethod
    def mean(self, predictors: Reals) -> Reals:
        """Return the expected labels."""

    @abstractmethod
    def weight(self, means: Reals) -> Reals:
        """Return the information of a record on its predictor."""

    @abstractmethod
    def likelihood(self, predictors: Reals, labels: Reals) -> Reals:
        """Return each record's log-likelihood, up to constants."""

    @abstractmethod
    def residual(self, labels: Reals, means: Reals) -> Reals:
        """Return labels minus means, within `greatest`."""

    @abstractmethod
    def greatest(self, means: Reals) -> Reals:
        """Return the greatest magnitude of a residual over all labels that a record may have. It
        does not depend on the label that it has."""


class Binomial(Family):
    """Two classes, 0 and 1: logistic regression."""

    name = "binomial"
    score_unit, weight_unit = 1.0, 4.0

    def mean(self, predictors: Reals) -> Reals:
        """Return the probabilities of class 1."""
        return np.asarray(expit(predictors))

    def weight(self, means: Reals) -> Reals:
        """Return their variances."""
        return means * (1 - means)

    def likelihood(self, predictors: Reals, labels: Reals) -> Reals:
        """Return the logarithm of the probability of the label."""
        return np.asarray(log_expit(np.where(labels == 1, predictors, -predictors)))

    def residual(self, labels: Reals, means: Reals) -> Reals:
        """Return labels minus means."""
        return labels - means

    def greatest(self, means: Reals) -> Reals:
        """Return that of the less likely class."""
        return np.maximum(means, 1 - means)


class Gaussian(Family):
    """A number: linear regression.

    Args:
        bound: where residuals are cut; infinite without differential privacy.
    """

    name = "gaussian"
    weight_unit = 1.0

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.score_unit = 1 / bound

    def mean(self, predictors: Reals) -> Reals:
        """Return the predictors."""
        return predictors

    def weight(self, means: Reals) -> Reals:
        """Return 1: the variance of residuals is estimated apart."""
        return np.ones_like(means)

    def likelihood(self, predictors: Reals, labels: Reals) -> Reals:
        """Return minus half the squared residual."""
        return -0.5 * (labels - predictors) ** 2

    def residual(self, labels: Reals, means: Reals) -> Reals:
        """Return labels minus means, cut at the bound (Huber, 1964: as many above as below)."""
        return np.clip(labels - means, -self.bound, self.bound)

    def greatest(self, means: Reals) -> Reals:
        """Return the bound."""
        return np.full_like(means, self.bound)

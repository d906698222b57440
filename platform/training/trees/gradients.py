"""First and second derivatives of a record's loss by each output, as boosting needs them.

    classes                   softmax cross-entropy: g = p - y, h = 2 p (1 - p), as XGBoost has it
    two classes, binary task  logistic loss: g = p - y, h = p (1 - p)
    regression                half the squared error: g = prediction - y, h = 1

Weights multiply both. A missing label has g = h = 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.labels_section import Target, Task

Reals = npt.NDArray[np.float64]
LEAST_HESSIAN = 1e-16
"""As in XGBoost."""


class OfClasses:
    """Of a column of classes. Two classes have one margin."""

    def __init__(self, target: Target) -> None:
        self._weights = np.asarray(target.weights, np.float64)

    def __call__(self, margins: Reals, labels: npt.NDArray[np.int64]) -> tuple[Reals, Reals]:
        """Return g and h, float64 [B, K], of margins [B, K] and classes int64 [B]."""
        weights = self._weights[labels, None]
        if margins.shape[1] == 1:
            chances = _logistic(margins)
            h = np.maximum(chances * (1 - chances), LEAST_HESSIAN)
            return (chances - labels[:, None]) * weights, h * weights
        chances = np.exp(margins - margins.max(1, keepdims=True, initial=-np.inf))
        chances /= chances.sum(1, keepdims=True)
        g, h = chances.copy(), np.maximum(2 * chances * (1 - chances), LEAST_HESSIAN)
        g[np.arange(len(labels)), labels] -= 1
        return g * weights, h * weights


def _logistic(margins: Reals) -> Reals:
    found: Reals = 1 / (1 + np.exp(-margins.clip(-700, 700)))
    return found


class OfTasks:
    """Of tasks: labels float32 [B, 2, tasks], values and sides, as
    `blindsum.platform.data.labels` has them."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        found = list(tasks.values())
        self._binary = np.array([task.kind == "binary" for task in found])
        self._weights = np.array([task.weight for task in found])
        self._of_positives = np.array([task.positive_weight for task in found])

    def __call__(self, outputs: Reals, labels: npt.NDArray[np.float32]) -> tuple[Reals, Reals]:
        """Return g and h, float64 [B, tasks], of outputs [B, tasks]."""
        values, sides = labels[:, 0].astype(np.float64), labels[:, 1]
        known = ~np.isnan(values)
        y = np.where(known, values, 0.0)
        chances = _logistic(outputs)
        apart = outputs - y
        right = (sides != 0) & (apart * sides > 0)  # on the known side of a bound
        g = np.where(self._binary, chances - y, np.where(right, 0.0, apart))
        h = np.where(self._binary, np.maximum(chances * (1 - chances), LEAST_HESSIAN), 1.0 - right)
        weights = np.where(known, self._weights, 0.0)
        weights = np.where(self._binary & (y == 1), weights * self._of_positives, weights)
        return g * weights, h * weights

"""The state of a fit, which is all of the model: what silos have in common after a round.

Parameters are float32. Three of them hold a float64: the first is its rounding, the others what is
left of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blindsum.platform.training.regression.solving import Reals
from blindsum.platform.training.vector import Vector

PARTS = 3
SEPARATED = -1.0
_LEAST = float(np.finfo(np.float32).tiny)
"""Smaller values are zero on some processors."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The state of a fit, float64. Under differential privacy all of it follows from noised sums.

    Legend: p columns, of which some may have no coefficient.

    Attributes:
        coefficients: the newest ones, of scaled columns, [p].
        at: those at which the other values were summed, [p].
        information: the Fisher information, as the upper triangle of [p, p]; under differential
            privacy the mean over the rounds that count.
        right: `information` times the coefficients that it leads to, [p]: a mean likewise.
        records: their number, 0 before round 1; 0 under differential privacy.
        likelihood: the log-likelihood, less the penalty; not under differential privacy.
        squares: the sum of squared residuals, of numbers only.
        step: the last step's length, in standard errors: the Newton decrement (Boyd and
            Vandenberghe, 2004, 9.5.1).
        shrinks: that step's length as a share of the one before.
        converged: 1 once steps change nothing, SEPARATED once they are seen to have no end.
        counted: the rounds that count, under differential privacy.
        visited, visited_squares: the sum of those rounds' `at`, [p], and of its squares.
    """

    coefficients: Reals
    at: Reals
    information: Reals
    right: Reals
    visited: Reals
    records: float
    likelihood: float
    squares: float
    step: float
    shrinks: float
    converged: float
    counted: float
    visited_squares: float

    @classmethod
    def of(cls, vector: Vector, columns: int) -> Fit:
        """Return the state in a vector of parameters."""
        values = sum(vector.reshape(PARTS, -1).astype(np.float64))
        found, start = dict[str, Any](), 0
        for name, size in sizes(columns):
            part = np.asarray(values)[start : start + size]
            found[name], start = part if name in _ARRAYS else float(part[0]), start + size
        return cls(**found)

    def vector(self) -> Vector:
        """Return the state as a vector of parameters, float32 [PARTS values]."""
        rest = np.concatenate([np.atleast_1d(getattr(self, one.name)) for one in fields(self)])
        found = np.empty((PARTS, rest.size), np.float32)
        for part in found:
            part[:] = rest
            part[np.abs(part) < _LEAST] = 0.0
            rest = rest - part
        return found.reshape(-1)


_ARRAYS = ("coefficients", "at", "information", "right", "visited")


def sizes(columns: int) -> Iterator[tuple[str, int]]:
    """Yield the fields of a state, and how many values each has."""
    for one in fields(Fit):
        triangle = columns * (columns + 1) // 2
        yield (
            one.name,
            (triangle if one.name == "information" else columns if one.name in _ARRAYS else 1),
        )


class GeneralisedLinear(nn.Module):
    """A regression as a model: a logit, or a number, or of two classes minus and plus half of the
    logit.

    Args:
        features: p - 1.
        outputs: 1 or 2.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.columns, self.outputs = features + 1, outputs
        values = sum(size for _, size in sizes(self.columns))
        self.state = nn.Parameter(torch.zeros(PARTS, values))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs, float32 [B, outputs], of features [B, p - 1]."""
        coefficients = self.state[:, : self.columns].double().sum(0)
        predictors = x.double() @ coefficients[1:] + coefficients[0]
        if self.outputs == 2:
            return torch.stack([-predictors / 2, predictors / 2], 1).float()
        return predictors[:, None].float()

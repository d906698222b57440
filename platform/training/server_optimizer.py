"""The step from the mean update to the next global model, identical in every silo.

FedAvg, FedAvgM and FedAdam (Reddi et al., ICLR 2021, algorithm 2), with the decoupled weight decay
of AdamW (Loshchilov and Hutter, ICLR 2019) on the whole model, which all silos have. The code uses
separate numpy operations, because IEEE 754 defines the rounding of each: silos on different
processors get the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.vector import Vector

ADAM_BETA2 = 0.99
ADAM_TAU = 1e-3


class ServerOptimizer:
    """The server's optimizer. Its state (momentum) is float64 and the same in every silo."""

    def __init__(self, section: ServerSection, parameters: int) -> None:
        self._section = section
        self._first = np.zeros(parameters, np.float64)
        self._second = np.full(parameters, ADAM_TAU**2, np.float64)

    @property
    def state(self) -> tuple[npt.NDArray[np.float64], ...]:
        """The state on which the next step depends, besides the model."""
        return {"sgd": (), "momentum": (self._first,), "adam": (self._first, self._second)}[
            self._section.optimizer
        ]

    @state.setter
    def state(self, state: tuple[npt.NDArray[np.float64], ...]) -> None:
        for name, one in zip(("_first", "_second"), state, strict=False):
            setattr(self, name, one)

    def apply(self, model: Vector, mean_update: npt.NDArray[np.float64]) -> Vector:
        """Return the next global model, float32 [parameters]."""
        rate, beta = self._section.learning_rate, self._section.momentum
        if self._section.optimizer == "sgd":
            step = mean_update
        elif self._section.optimizer == "momentum":
            self._first = self._first * beta + mean_update
            step = self._first
        else:
            self._first = self._first * beta + mean_update * (1 - beta)
            self._second = self._second * ADAM_BETA2 + mean_update * mean_update * (1 - ADAM_BETA2)
            step = self._first / (np.sqrt(self._second) + ADAM_TAU)
        kept = model.astype(np.float64)
        if self._section.weight_decay:
            kept = kept * (1 - rate * self._section.weight_decay)
        following: Vector = (kept + step * rate).astype(np.float32)
        return following

"""The step from the mean update to the next global model, identical in every silo.

FedAvg, FedAvgM and FedAdam (Reddi et al., ICLR 2021, algorithm 2), with the decoupled weight decay
of AdamW (Loshchilov and Hutter, ICLR 2019) on the whole model, which all silos have. The code uses
separate numpy operations, because IEEE 754 defines the rounding of each: silos on different
processors get the same bits.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.subset import Subset
from blindsum.platform.training.vector import Vector
from blindsum.platform.training.vector_room import IN_MEMORY, VectorRoom, blocks

Doubles = npt.NDArray[np.float64]

ADAM_BETA2 = 0.99
ADAM_TAU = 1e-3


class MeanUpdate(Protocol):
    """The silos' mean change of the parameters. An array is one."""

    def __getitem__(self, where: slice, /) -> npt.NDArray[np.float64]:
        """Return the change of a range of the parameters."""


class ServerOptimizer:
    """The server's optimizer. Its state (momentum) is float64 and the same in every silo.

    Args:
        room: where the state and the models lie.
    """

    def __init__(
        self, section: ServerSection, parameters: int, room: VectorRoom = IN_MEMORY
    ) -> None:
        self._section, self._room = section, room
        kept = {"sgd": 0, "momentum": 1, "adam": 2}[section.optimizer]
        self.state: tuple[npt.NDArray[np.float64], ...] = tuple(
            room.zeros(parameters, np.float64) for _ in range(kept)
        )
        """The state on which the next step depends, besides the model. A step replaces it."""
        if kept == 2:
            self.state[1][:] = ADAM_TAU**2

    def apply(self, model: Vector, mean_update: MeanUpdate, subset: Subset | None = None) -> Vector:
        """Return the next global model, float32 [parameters].

        Args:
            subset: the parameters that change, in the order of `mean_update`; all by default. The
                others keep their values and their part of the state.

        Raises:
            DataError: there is no room for it.
        """
        before, start = self.state, self._room.copy if subset else self._room.like
        following, after = start(model), tuple(start(one) for one in before)
        mapped = (model, following, *before, *after)
        whole = ((where, where) for where in blocks(model.size, *mapped))
        for where, at in subset.groups(*mapped) if subset else whole:
            steps = self._step([one[where] for one in before], mean_update[at])
            for one, new in zip(after, steps.state, strict=True):
                one[where] = new
            following[where] = self._moved(model[where], steps.step)
        self.state = after
        return following

    def _step(self, state: list[Doubles], mean: Doubles) -> _Step:
        beta = self._section.momentum
        if self._section.optimizer == "sgd":
            return _Step(mean, ())
        if self._section.optimizer == "momentum":
            first = state[0] * beta + mean
            return _Step(first, (first,))
        first = state[0] * beta + mean * (1 - beta)
        second = state[1] * ADAM_BETA2 + mean * mean * (1 - ADAM_BETA2)
        return _Step(first / (np.sqrt(second) + ADAM_TAU), (first, second))

    def _moved(self, model: Vector, step: Doubles) -> Doubles:
        rate = self._section.learning_rate
        kept = model.astype(np.float64)
        if self._section.weight_decay:
            kept = kept * (1 - rate * self._section.weight_decay)
        moved: Doubles = kept + step * rate
        return moved


class _Step(NamedTuple):
    """A step of a range of the parameters, and the optimizer's state there after it."""

    step: Doubles
    state: tuple[Doubles, ...]

"""Federated averaging in one process, with the same training and server steps but without silos
and ciphertext.

Baselines, the audit and the benchmarks use it, so that they measure the product's own training.
FedAvg: McMahan et al., AISTATS 2017, with the server optimizers of
Reddi et al., ICLR 2021.

Under shared noise a participant returns a sum without noise (`Protection.SHARES_TO_ADD`). Nothing
in a simulation adds the shares, so `mean_update` refuses such an update. Simulate with
`PrivacyPlan.in_a_run`, `of_the_sum` or `in_the_mean`, or pass a `combine` that adds the shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.average_section import LAST, Average
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.average import averaged, load, of_model
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.update import Protection, Update
from blindsum.platform.training.vector import Vector

Combine = Callable[[Sequence[Update], float], npt.NDArray[np.float64]]
"""A function from the participants' updates and the round's clipping to the mean change of the
parameters."""


class Participant(Protocol):
    """A contributor to rounds; `LocalTrainer` is one."""

    def train(self, start: Vector, clipping: float = 1.0, round: int = 1) -> Update:
        """Return an update for one round, starting from the global parameters, float32
        [parameters]."""


def mean_update(updates: Sequence[Update], clipping: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the mean change of the parameters, float64 [parameters].

    Raises:
        PrivacyError: an update still needs its shares of the noise.
    """
    if any(update.protected_by is Protection.SHARES_TO_ADD for update in updates):
        raise PrivacyError(
            "a simulated update carries no noise, because its plan relies on the silos' shares",
            "Train it under plan.in_a_run(), plan.of_the_sum(silos) or plan.in_the_mean(silos).",
        )
    changes = [update.values.astype(np.float64) * update.unit for update in updates]
    mean: npt.NDArray[np.float64] = np.mean(changes, axis=0)
    return mean


class Simulation:
    """A federation in one process.

    Args:
        model: the initial model, which participants may share.
        server: turns the mean change into the next model.
        combine: computes the mean change; by default the plain mean.
        average: the average that `run` returns; by default the last round's model.
    """

    def __init__(
        self,
        model: nn.Module,
        participants: Sequence[Participant],
        server: ServerSection,
        combine: Combine = mean_update,
        average: Average = LAST,
    ) -> None:
        self._model, self._participants, self._combine = model, participants, combine
        self.vector, self._rounds = get_parameters(model), 0
        self._rule, self.average = average, of_model(model)
        self._server = ServerOptimizer(server, self.vector.size)

    def round(self, clipping: float = 1.0) -> list[Update]:
        """Run one round; returns what the participants contributed.

        Args:
            clipping: this round's clip norm in units of the plans'.
        """
        number = self._rounds + 1
        updates = [one.train(self.vector, clipping, number) for one in self._participants]
        self.vector = self._server.apply(self.vector, self._combine(updates, clipping))
        set_parameters(self._model, self.vector)
        self._rounds = number
        self.average = averaged(self._rule, self.average, self._model, self._rounds)
        return updates

    def run(self, rounds: int, done: Callable[[], None] = lambda: None) -> nn.Module:
        """Run some rounds, once; returns the model with the average of the rounds' parameters.

        Args:
            done: called after each round.
        """
        for _ in range(rounds):
            self.round()
            done()
        load(self._model, self.average)
        return self._model

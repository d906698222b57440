"""Federated averaging in one process: no silo, no ciphertext, the same training and server steps.

Baselines, the audit and the benchmarks train through here, so that what they measure is the
product's own training. FedAvg: McMahan et al., AISTATS 2017, with the server optimizers of
Reddi et al., ICLR 2021.

A participant under shared noise returns a bare sum (`Protection.SHARES_TO_ADD`). A simulation has
no one to add the shares, so `mean_update` refuses such an update: simulate with
`PrivacyPlan.in_a_run`, `of_the_sum` or `in_the_mean`, or combine with something that adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.schema import ServerSection
from blindsum.platform.training.models import Vector, get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.update import Protection, Update

Combine = Callable[[Sequence[Update], float], npt.NDArray[np.float64]]
"""The participants' updates and the round's clipping, to the mean change of the parameters."""


class Participant(Protocol):
    """Anyone who contributes to a round; `LocalTrainer` is one."""

    def train(self, start: Vector, clipping: float = 1.0) -> Update:
        """Contribute to one round, from the global parameters, float32 [parameters]."""


def mean_update(updates: Sequence[Update], clipping: float = 1.0) -> npt.NDArray[np.float64]:
    """The mean change of the parameters, float64 [parameters].

    Raises:
        PrivacyError: an update still needs its shares of the noise.
    """
    if any(update.protected_by is Protection.SHARES_TO_ADD for update in updates):
        raise PrivacyError(
            "a simulated update carries no noise: its plan leaves that to the silos' shares",
            "Train it under plan.in_a_run(), plan.of_the_sum(silos) or plan.in_the_mean(silos).",
        )
    changes = [update.values.astype(np.float64) * update.unit for update in updates]
    mean: npt.NDArray[np.float64] = np.mean(changes, axis=0)
    return mean


class Simulation:
    """A federation in one process.

    Args:
        model: the model to begin with; participants may share it. It ends with the last parameters.
        server: turns the mean change into the next model.
        combine: by default the plain mean.
    """

    def __init__(
        self,
        model: nn.Module,
        participants: Sequence[Participant],
        server: ServerSection,
        combine: Combine = mean_update,
    ) -> None:
        self._model, self._participants, self._combine = model, participants, combine
        self.vector = get_parameters(model)
        self._server = ServerOptimizer(server, self.vector.size)

    def round(self, clipping: float = 1.0) -> list[Update]:
        """Run one round; returns what the participants contributed.

        Args:
            clipping: this round's clip norm, in units of the plans'.
        """
        updates = [one.train(self.vector, clipping) for one in self._participants]
        self.vector = self._server.apply(self.vector, self._combine(updates, clipping))
        set_parameters(self._model, self.vector)
        return updates

    def run(self, rounds: int, done: Callable[[], None] = lambda: None) -> nn.Module:
        """Run some rounds; returns the model with the parameters after the last.

        Args:
            done: called after each round.
        """
        for _ in range(rounds):
            self.round()
            done()
        return self._model

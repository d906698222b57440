"""The optimizers of a silo's local steps. They work on clipped and noised gradients, which is
post-processing and costs no budget. Their state begins anew in every round, so that none of it has
to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.local_steps import BETA2

EPSILON = 1e-8
"""Of Adam (Kingma and Ba, ICLR 2015)."""


class LocalOptimizer:
    """The optimizer of one round.

    Args:
        parameters: the model's trainable parameters, changed in place.
        rate: the round's learning rate.
        corrections: what each step adds to its direction, of each parameter or none
            (`blindsum.platform.training.control_variates`).
    """

    def __init__(
        self,
        training: TrainingSection,
        parameters: Sequence[Tensor],
        rate: float,
        corrections: Sequence[Tensor | None] = (),
    ) -> None:
        self._corrections = corrections
        self._training, self._parameters, self._rate = training, parameters, rate
        self._steps = 0
        first, second = training.optimizer != "sgd", training.optimizer == "adam"
        self._first = [torch.zeros_like(p) for p in parameters] if first else []
        self._second = [torch.zeros_like(p) for p in parameters] if second else []
        self._start = [p.detach().clone() for p in parameters] if training.proximal else []

    def step(self, sums: Sequence[Tensor]) -> None:
        """Take a step.

        Args:
            sums: the sum of a sample's gradients by parameter, which may be changed.
        """
        self._steps += 1
        divisor = self._training.expected_batch_size
        with torch.no_grad():
            for i, (p, total) in enumerate(zip(self._parameters, sums, strict=True)):
                if self._start:
                    p.lerp_(self._start[i], self._rate * self._training.proximal)
                if not self._first:
                    p.sub_(total, alpha=self._rate / divisor)
                else:
                    p.sub_(self._direction(i, total / divisor), alpha=self._rate)
                if self._corrections and (correction := self._corrections[i]) is not None:
                    p.add_(correction, alpha=self._rate)

    def _direction(self, i: int, gradient: Tensor) -> Tensor:
        beta = self._training.momentum
        first = self._first[i]
        if not self._second:
            return first.mul_(beta).add_(gradient)
        second = self._second[i]
        first.mul_(beta).add_(gradient, alpha=1 - beta)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = (second / (1 - BETA2**self._steps)).sqrt_().add_(EPSILON)
        return first / (1 - beta**self._steps) / spread

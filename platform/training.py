"""One silo's training for one round: local steps from the global model to an update.

With privacy: Opacus computes per-record gradients and clips them; noise and Poisson sampling
come from a cryptographic generator. The divisor is the job's public expected batch size.
Without: the same steps, unclipped and noiseless.

Floating-point Gaussian noise has gaps an attacker can look into (Mironov, CCS 2012). What
leaves the silo is this update after clipping and stochastic rounding to a coarse public grid,
not the noisy floats themselves; that hides the gaps but is not a proof. SECURITY.md says so.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional

from blindsum.platform.data import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job import TrainingSection
from blindsum.platform.models import Vector, get_parameters, set_parameters
from blindsum.platform.privacy import PrivacyPlan

# Opacus hooks layers whose input is data, which needs no gradient.
warnings.filterwarnings("ignore", message="Full backward hook is firing")


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus's DP optimizer with its noise drawn from the given generator, in double precision."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, random: np.random.Generator, **kwargs: Any
    ):
        super().__init__(optimizer, **kwargs)
        self._random = random

    def clip_and_accumulate(self) -> None:
        """Clip each record's gradient. One that overflowed counts as zero: a run that ends in
        NaN because of one record would tell that the record is there."""
        for p in self.params:
            p.grad_sample.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = self._random.normal(0.0, deviation, size=tuple(p.summed_grad.shape))
            p.grad = (p.summed_grad.double() + torch.from_numpy(noise)).to(p.dtype).view_as(p)


class LocalTrainer:
    """Trains the silo's copy of the model. `random` samples, and with a plan also makes noise."""

    def __init__(
        self, model: nn.Module, data: Fold, training: TrainingSection,
        plan: PrivacyPlan | None, random: np.random.Generator,
    ) -> None:  # fmt: skip
        self._data, self._training, self._random = data, training, random
        self._features = torch.from_numpy(data.features)
        self._labels = torch.from_numpy(data.labels)
        # "sum": every record's gradient enters with weight one, whatever the sample's size.
        self._model = (
            GradSampleModule(model, batch_first=True, loss_reduction="sum") if plan else model
        )
        sgd = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=training.learning_rate / (1 if plan else training.expected_batch_size),
        )
        self._optimizer: Any = (
            NoisyOptimizer(
                sgd,
                random,
                noise_multiplier=plan.noise_multiplier,
                max_grad_norm=plan.clip_norm,
                # Divides by the batch size only where it is told the loss is a mean: the
                # public constant stands in, so that the true size never enters.
                expected_batch_size=training.expected_batch_size,
                loss_reduction="mean",
            )
            if plan
            else sgd
        )
        if plan:
            self._require_gradients_per_record()

    def train(self, start: Vector) -> Vector:
        """Take one round's local steps from the global model.

        Args:
            start: the global parameters, float32 [parameters].

        Returns:
            The update, float32 [parameters]: trained minus start. With a plan it is protected
            by the plan's share of one round, and by nothing without.
        """
        set_parameters(self._model, start)
        self._model.train()
        for _ in range(self._training.local_steps):
            chosen = torch.from_numpy(
                np.flatnonzero(self._random.random(len(self._data)) < self._training.sampling_rate)
            )
            self._optimizer.zero_grad()
            output = self._model(self._features[chosen])
            functional.cross_entropy(output, self._labels[chosen], reduction="sum").backward()  # type: ignore[no-untyped-call]
            if isinstance(self._model, GradSampleModule):
                self._check_gradients(len(chosen))
            self._optimizer.step()
        return get_parameters(self._model) - start

    def _require_gradients_per_record(self) -> None:
        """Try the model on made-up records before anything is charged.

        Raises:
            ModelError: see `_check_gradients`.
        """
        self._model.train()
        for records in (3, 1, 0):
            self._optimizer.zero_grad()
            output = self._model(torch.zeros(records, self._features.shape[1]))
            functional.cross_entropy(
                output, torch.zeros(records, dtype=torch.long), reduction="sum"
            ).backward()  # type: ignore[no-untyped-call]
            self._check_gradients(records)
        self._optimizer.zero_grad()

    def _check_gradients(self, records: int) -> None:
        """Every parameter must have exactly one gradient for each record of the sample.

        A model that reshapes records into more rows than there are records, or uses a layer
        twice, would have them clipped piece by piece, and one record could move the sum by
        many times the clip norm.

        Raises:
            ModelError: names the first parameter of which that does not hold.
        """
        for name, p in self._model.named_parameters():
            sample = getattr(p, "grad_sample", None) if p.requires_grad else None
            rows = sample.shape[0] if isinstance(sample, torch.Tensor) else None
            if p.requires_grad and rows != records:
                raise ModelError(
                    f"parameter '{name.removeprefix('_module.')}' has no gradient per record: "
                    "clipping it would bound nothing",
                    "Keep records in the first dimension of every layer's input, use every "
                    "parameter, and use each layer once.",
                )

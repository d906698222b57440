"""One silo's training for one round: local steps from the global model to an update.

With privacy: per-record gradients are clipped (`blindsum.platform.training.clipping`, the semantics of
Opacus's DP-SGD); noise and Poisson sampling come from a cryptographic generator. The divisor is
the job's public expected batch size. Without: the same steps, unclipped and noiseless.

A private head is clipped together with the rest and gets the same noise, though it never leaves the
silo: the shared part's next gradients depend on it, so it must not hold more of a record than they may.

Floating-point Gaussian noise has gaps an attacker can look into (Mironov, CCS 2012). What
leaves the silo is this update after clipping and stochastic rounding to a coarse public grid,
not the noisy floats themselves; that hides the gaps but is not a proof. SECURITY.md says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import add_gaussian
from blindsum.platform.training.clipping import ClippedSum, clipped_sum
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.models import (
    Vector,
    get_parameters,
    private_parameters,
    set_parameters,
)


class LocalTrainer:
    """Trains the silo's copy of the model. `random` samples, and with a plan also makes noise.

    Raises:
        ModelError: with a plan, if the model's gradients cannot be had record by record.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Fold,
        training: TrainingSection,
        plan: PrivacyPlan | None,
        random: np.random.Generator,
        loss: RecordLoss = classification,
    ) -> None:
        self._model, self._training, self._plan, self._random = model, training, plan, random
        self._loss = loss
        self._data = data
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._clipped: ClippedSum | None = (
            clipped_sum(model, data.width, loss, torch.from_numpy(data.labels)) if plan else None
        )
        self._clip_norm = plan.clip_norm if plan else 0.0
        self.unclipped = 0.0

    @property
    def scale(self) -> float:
        """What one of `train`'s values is in the update: 1, or of a sum the step along it."""
        if self._plan is None or not self._plan.share:
            return 1.0
        return -self._rate

    def train(self, start: Vector, clipping: float = 1.0) -> Vector:
        """Take one round's local steps from the global model.

        Leaves in `unclipped` how many gradients were within the clip norm, minus half of all.

        Args:
            start: the global parameters, float32 [parameters].
            clipping: this round's clip norm, and its noise with it, in units of the plan's.

        Returns:
            The update, float32 [parameters]: trained minus start. With a plan it is protected
            by the plan's part of one round, and by nothing without. Where the noise is shared:
            the clipped sum of one sample's gradients, which nothing protects yet.
        """
        set_parameters(self._model, start)
        self._model.train()
        self.unclipped = 0.0
        if self._plan is not None:
            self._clip_norm = self._plan.clip_norm * clipping
        if self._plan is not None and self._plan.share:
            return self._shared_sum()
        for _ in range(self._training.local_steps):
            self.step()
        return get_parameters(self._model) - start

    def _shared_sum(self) -> Vector:
        """One sample's clipped sum of the shared parameters' gradients. The private head takes its
        step here, under all of the noise: what is shared in later rounds follows from it."""
        sums, private = self._clipped_sum(), set(map(id, private_parameters(self._model)))
        shared = []
        for p, one in zip(self._parameters, sums, strict=True):
            if id(p) not in private:
                shared.append(one.numpy().ravel())
                continue
            self._noise(one)
            with torch.no_grad():
                p.sub_(one, alpha=self._rate)
        return np.concatenate(shared)

    def step(self) -> None:
        """One step of (DP-)SGD from where the model stands."""
        gradients = self._noisy_sum()
        with torch.no_grad():
            for p, gradient in zip(self._parameters, gradients, strict=True):
                p.sub_(gradient, alpha=self._rate)

    def _noisy_sum(self) -> list[Tensor]:
        """The sum over a Poisson sample: clipped and with noise under a plan, bare without."""
        sums = self._clipped_sum()
        if self._plan is not None:
            for gradient in sums:
                self._noise(gradient)
        return sums

    def _noise(self, gradient: Tensor) -> None:
        if self._plan is not None:
            add_gaussian(gradient, self._plan.update_noise * self._clip_norm, self._random)

    @property
    def _rate(self) -> float:
        """The divisor is public: the true size of the sample never enters."""
        return self._training.learning_rate / self._training.expected_batch_size

    def _clipped_sum(self) -> list[Tensor]:
        """Over one sample, batch by batch: memory does not grow with it."""
        sums = [torch.zeros_like(p) for p in self._parameters]
        for features, labels in self._data.batches(self._sample()):
            for total, one in zip(sums, self._gradients(features, labels), strict=True):
                total.add_(one)
        return sums

    def _gradients(self, features: Tensor, labels: Tensor) -> list[Tensor]:
        if self._plan is None or self._clipped is None:
            loss = self._loss(self._model(features), labels).sum()
            return list(torch.autograd.grad(loss, self._parameters, materialize_grads=True))
        clipped = self._clipped(features, labels, self._clip_norm)
        self.unclipped += clipped.within - len(labels) / 2
        return clipped.sums

    def _sample(self) -> npt.NDArray[np.int64]:
        """Each record with the sampling rate, independently: amplification rests on it."""
        drawn = self._random.random(len(self._data)) < self._training.sampling_rate
        return np.flatnonzero(drawn)

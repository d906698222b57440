"""One silo's training in one round: local steps from the global model to an update.

With a privacy plan, per-record gradients are clipped (`blindsum.platform.training.clipping.choice`,
the semantics of Opacus's DP-SGD), and a cryptographic generator draws noise and Poisson samples.
The divisor is the job's public expected batch size. Without a plan the steps are the same, but
without clipping and noise.

A private head is clipped together with the other parameters and gets the same noise, although it
never leaves the silo. The shared part's next gradients depend on the head, so the head must not
contain more about a record than they may.

Floating-point Gaussian noise has gaps that an attacker can exploit (Mironov, CCS 2012). The silo
sends this update after clipping and stochastic rounding to a coarse public grid, not the noisy
floats themselves. That hides the gaps but is not a proof; SECURITY.md says so.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.data.device import device_of, on
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.gaussian_noise import add_gaussian
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.augmentation import Augmentation
from blindsum.platform.training.buffers import Constants
from blindsum.platform.training.chunks import chunk_of
from blindsum.platform.training.clipping.choice import Chosen, clipped_sum
from blindsum.platform.training.clipping.clipped import Masks
from blindsum.platform.training.clipping.copies import MeanOverCopies, OfCopies
from blindsum.platform.training.clipping.precision import InBfloat16, require_bfloat16
from blindsum.platform.training.local_optimizer import LocalOptimizer
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.models import (
    get_parameters,
    get_trainable,
    private_parameters,
    set_parameters,
    set_trainable,
    split_as,
)
from blindsum.platform.training.subset import Subset
from blindsum.platform.training.update import Protection, Update
from blindsum.platform.training.vector import Vector, put_away

DRAWN_AT_ONCE = 2**20
"""The chances of so many records are drawn at a time."""


class TrainedElsewhere(Protocol):
    """Other processes of the silo, which hold its training records."""

    def clipped_sum(
        self, parameters: Vector, clip_norm: float, random: np.random.Generator
    ) -> tuple[Vector, float]:
        """Sum gradients over one sample, as `LocalTrainer.clipped_sum` does.

        Args:
            parameters: all trainable ones, as `get_trainable` returns them.
            random: draws the sample in runs without privacy, which are seeded.

        Returns:
            the sum over all processes, in the same order, and the gradients within the clip norm,
            minus half of all.

        Raises:
            SiloLost: a process did not answer. There is no sum without its records.
        """


class LocalTrainer:
    """A trainer of the silo's copy of the model, for one round at a time.

    Args:
        data: the silo's training records; none if they are elsewhere.
        plan: the silo's privacy plan; None trains without differential privacy.
        random: draws the samples, and with a plan the noise.
        loss: the loss of each record.
        elsewhere: the processes that hold the training records.
        augmentation: changes the records of each sample at random.

    Raises:
        ModelError: there is a plan, and the model mixes records or fails on a single one; or it
            cannot compute in the job's precision.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Fold,
        training: TrainingSection,
        plan: PrivacyPlan | None,
        random: np.random.Generator,
        loss: RecordLoss = classification,
        elsewhere: TrainedElsewhere | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._model, self._training, self._plan, self._random = model, training, plan, random
        self._augmentation, self._device = augmentation, device_of(model)
        copies = augmentation.copies if augmentation else 1
        lower = training.precision == "bfloat16"
        self._forward, self._loss = model, loss
        if copies > 1:
            self._forward, self._loss = OfCopies(model), MeanOverCopies(loss)
        self._data, self._elsewhere = data, elsewhere
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._constants = Constants(model)
        self._clipped: Chosen | None = None
        with on(self._device):
            if lower:
                require_bfloat16(model, data.width)
                self._forward = InBfloat16(self._forward)
            self._chunk = chunk_of(model, data, training, copies)
            if plan:
                labels = _no_labels(data)
                self._clipped = clipped_sum(model, data.width, loss, labels, copies, lower)
        self._clip_norm = plan.clip_norm if plan else 0.0
        self._unclipped, self._rate = 0.0, training.learning_rate
        self._corrections: list[Tensor | None] = []
        self._subset: Subset | None = None
        self._chosen: Masks = None
        shares_noise = plan is not None and plan.share is not None
        self._contribute = self._with_shared_noise if shares_noise else self._with_local_noise

    @property
    def says(self) -> str:
        """How gradients are clipped, in one sentence that depends only on the model; empty without
        a plan."""
        return self._clipped.says if self._clipped else ""

    def train(
        self,
        start: Vector,
        clipping: float = 1.0,
        round: int = 1,
        subset: Subset | None = None,
        correction: Vector | None = None,
    ) -> Update:
        """Train for one round from the global model.

        Args:
            start: the global parameters, float32 [parameters].
            clipping: this round's clip norm in units of the plan's; the noise scales with it.
            round: the round's number, on which the learning rate may depend.
            subset: the shared parameters that train, all by default. The update has the values of
                those only. A private head always trains.
            correction: of the control variates, added to every local step after clipping and noise,
                float32 [parameters].

        Raises:
            ModelError: the model keeps running state, which its first records did not show.
        """
        self._subset, self._chosen = subset, self._masks(subset)
        self._rate = self._training.rate(round)
        set_parameters(self._model, start)
        self._model.train()
        self._unclipped = 0.0
        if self._plan is not None:
            self._clip_norm = self._plan.clip_norm * clipping
        self._corrections = [] if correction is None else self._by_parameter(correction)
        update = self._contribute(start)
        self._constants.require_unchanged()
        return update

    def _by_parameter(self, shared: Vector) -> list[Tensor | None]:
        """Return values of the shared parameters by parameter; None for the private head's."""
        own = set(map(id, private_parameters(self._model)))
        parts = iter(split_as([p for p in self._parameters if id(p) not in own], shared))
        return [None if id(p) in own else next(parts).to(p.device) for p in self._parameters]

    def _with_local_noise(self, start: Vector) -> Update:
        """Take the job's local steps, each with this silo's whole noise, or none without a plan."""
        optimizer = LocalOptimizer(self._training, self._parameters, self._rate, self._corrections)
        for _ in range(self._training.local_steps):
            optimizer.step(self._noisy_sum())
        values = get_parameters(self._model)
        values -= start
        put_away(start)
        return Update(
            values=self._sent(values),
            unit=1.0,
            protected_by=Protection.NOTHING if self._plan is None else Protection.OWN_NOISE,
            unclipped=self._unclipped,
        )

    def _with_shared_noise(self, start: Vector) -> Update:
        """Sum one sample's clipped gradients of the shared parameters. The silos' shares of the
        noise are added later. The private head takes its step here, with the whole noise, because
        the silo's later updates depend on it."""
        sums, private = self._sums(), set(map(id, private_parameters(self._model)))
        # The divisor is public and not the sample's true size.
        rate = self._rate / self._training.expected_batch_size
        shared = []
        for p, gradient in zip(self._parameters, sums, strict=True):
            if id(p) not in private:
                shared.append(gradient.cpu().numpy().ravel())
                continue
            self._noise(gradient)
            with torch.no_grad():
                p.sub_(gradient, alpha=rate)
        return Update(
            values=self._sent(np.concatenate(shared)),
            unit=-rate,
            protected_by=Protection.SHARES_TO_ADD,
            unclipped=self._unclipped,
        )

    def _noisy_sum(self) -> list[Tensor]:
        """Sum the gradients of a Poisson sample. Under a plan they are clipped and noised."""
        sums = self._sums()
        if self._plan is not None:
            masks = list[Tensor | None](self._chosen or ()) or [None] * len(sums)
            for gradient, chosen in zip(sums, masks, strict=True):
                self._noise(gradient, chosen)
        return sums

    def _noise(self, gradient: Tensor, chosen: Tensor | None = None) -> None:
        if self._plan is None:
            return
        noised = gradient if chosen is None else gradient[chosen]
        add_gaussian(noised, self._plan.update_noise * self._clip_norm, self._random)
        if chosen is not None:
            gradient[chosen] = noised

    def _masks(self, subset: Subset | None) -> Masks:
        """Return the chosen values of every trainable parameter; None without a subset."""
        if subset is None:
            return None
        private = private_parameters(self._model)
        whole = torch.from_numpy(subset.mask()).to(self._device)
        own, masks, done = set(map(id, private)), list[Tensor](), 0
        for p in self._parameters:
            if id(p) in own:
                masks.append(torch.ones_like(p, dtype=torch.bool))
            else:
                masks.append(whole[done : done + p.numel()].view(p.shape))
                done += p.numel()
        return masks

    def _sent(self, values: Vector) -> Vector:
        return values if self._subset is None else self._subset.of(values)

    def clipped_sum(self, parameters: Vector, clip_norm: float) -> tuple[Vector, float]:
        """Sum gradients over one sample of the records that are here, without noise. As
        `TrainedElsewhere.clipped_sum`, of which this is one process's part."""
        set_trainable(self._model, parameters)
        self._model.train()
        self._clip_norm, self._unclipped = clip_norm, 0.0
        sums = self._sums()
        self._constants.require_unchanged()
        return torch.cat([one.reshape(-1) for one in sums]).cpu().numpy(), self._unclipped

    def _sums(self) -> list[Tensor]:
        """Sum over one sample batch by batch, so that memory does not grow with the sample."""
        if self._elsewhere:
            now = get_trainable(self._model)
            found, unclipped = self._elsewhere.clipped_sum(now, self._clip_norm, self._random)
            self._unclipped += unclipped
            return [one.to(self._device) for one in split_as(self._parameters, found)]
        sums = [torch.zeros_like(p) for p in self._parameters]
        sample = self._data.alike(self._sample())
        for features, labels in self._data.batches(sample, self._chunk):
            if self._augmentation:
                features = self._augmentation(features, self._random)
            with on(self._device):
                each = self._gradients(features.to(self._device), labels.to(self._device))
            for total, one in zip(sums, each, strict=True):
                total.add_(one)
        for total, chosen in zip(sums, self._chosen or (), strict=False):
            total.masked_fill_(~chosen, 0.0)
        return sums

    def _gradients(self, features: Tensor, labels: Tensor) -> list[Tensor]:
        if self._plan is None or self._clipped is None:
            loss = self._loss(self._forward(features), labels).sum()
            return list(torch.autograd.grad(loss, self._parameters, materialize_grads=True))
        clipped = self._clipped(features, labels, self._clip_norm, self._chosen)
        self._unclipped += clipped.within - len(labels) / 2
        return clipped.sums

    def _sample(self) -> npt.NDArray[np.int64]:
        """Draw each record independently with the sampling rate, which amplification relies on."""
        drawn, records = [np.zeros(0, np.int64)], len(self._data)
        for start in range(0, records, DRAWN_AT_ONCE):
            chances = self._random.random(min(DRAWN_AT_ONCE, records - start))
            drawn.append(start + np.flatnonzero(chances < self._training.sampling_rate))
        return np.concatenate(drawn)


def _no_labels(data: Fold) -> torch.Tensor:
    """Return none of the labels, with their type and shape."""
    return torch.from_numpy(dense(data.stored_labels[:0]))

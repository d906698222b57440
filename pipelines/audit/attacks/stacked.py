"""Train many models of one shape side by side, each on its own half of the records.

The steps are those of `blindsum.platform.training.local.LocalTrainer` (Poisson samples, clipped
sums, Gaussian noise, the public divisor), for K fully connected models at a time: a batched matrix
product costs little more than a single one. The local and the server's optimizer are the product's
own: they treat every number by itself, so that K models are one long one to them. The norm of one
record's gradient does not need that gradient: for a linear layer it is |d| |a| (Goodfellow,
arXiv:1510.01799).

Legend: K models, N records, B the padded length of their samples, I and O a layer's inputs and
outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.platform.job.model_section import Linear, Mlp
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.clipping.clipped import STABLE
from blindsum.platform.training.local_optimizer import LocalOptimizer
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.models import build_model, split_as
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.vector import Vector


def stackable(job: Job) -> bool:
    """Return whether `Stack` supports the job's model: fully connected, and all of it trained."""
    model = job.model
    return isinstance(model, (Linear, Mlp)) and not model.freeze and not model.lora


class Stack:
    """K copies of the job's model, with its initial weights, which the attacker knows."""

    def __init__(
        self, job: Job, features: int, models: int, loss: RecordLoss = classification
    ) -> None:
        outputs, self._loss = job.data.outputs, loss
        model = build_model(job.model, features, outputs, seed=job.seed, private=False)
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._relu = isinstance(job.model, Mlp) and job.model.activation == "relu"
        self.weights = [m.weight.detach().repeat(models, 1, 1) for m in layers]  # [K, O, I]
        self.biases = [m.bias.detach().repeat(models, 1) for m in layers]  # [K, O]

    def logits(self, features: Tensor) -> Tensor:
        """Return the outputs, [K, N, outputs], on records [N, I]."""
        return self._forward(features.expand(len(self.weights[0]), -1, -1))[-1]

    def train(
        self,
        features: Tensor,
        labels: Tensor,
        members: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
    ) -> None:
        """Take all steps of all rounds.

        Args:
            features: float32 [N, I].
            labels: [N, ...], as the loss takes them.
            members: bool [K, N]: which records each model is trained on.
        """
        server = ServerOptimizer(recipe.server, sum(p.numel() for p in self._parameters))
        for number in range(1, recipe.rounds + 1):
            start = self._flat()
            rate = recipe.training.rate(number)
            optimizer = LocalOptimizer(recipe.training, self._parameters, rate)
            for _ in range(recipe.training.local_steps):
                chances = torch.rand(members.shape, generator=generator)
                rows, valid = _padded((chances < recipe.training.sampling_rate) & members)
                optimizer.step(self._noisy(features[rows], labels[rows], valid, recipe, generator))
            if recipe.server != ServerSection():
                self._load(server.apply(start, (self._flat() - start).astype(np.float64)))

    @property
    def _parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def _flat(self) -> Vector:
        flat: Vector = torch.cat([p.flatten() for p in self._parameters]).numpy()
        return flat

    def _load(self, vector: Vector) -> None:
        for p, part in zip(self._parameters, split_as(self._parameters, vector), strict=True):
            p.copy_(part)

    def _noisy(
        self,
        features: Tensor,
        labels: Tensor,
        valid: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
    ) -> list[Tensor]:
        """Return the samples' summed gradients with the plan's noise."""
        plan = recipe.plan
        gradients = self._sums(features, labels, valid, plan.clip_norm if plan else None)
        if plan and plan.update_noise:
            for one in gradients:
                noise = torch.randn(one.shape, generator=generator)
                one.add_(noise, alpha=plan.update_noise * plan.clip_norm)
        return gradients

    def _forward(self, x: Tensor) -> list[Tensor]:
        """Return every layer's inputs, and the logits, [K, B, ...]."""
        inputs = [x]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            if i < len(self.weights) - 1:
                x = torch.relu(x) if self._relu else torch.tanh(x)
            inputs.append(x)
        return inputs

    def _sums(
        self, features: Tensor, labels: Tensor, valid: Tensor, clip_norm: float | None
    ) -> list[Tensor]:
        """Return the samples' summed gradients, of all weights and then of all biases."""
        *inputs, logits = self._forward(features)
        said = logits.flatten(0, 1).requires_grad_()
        losses = self._loss(said, labels.flatten(0, 1)).sum()
        (d,) = torch.autograd.grad(losses, said)
        d = d.view_as(logits) * valid[..., None]
        outputs = [d]
        for i in range(len(self.weights) - 1, 0, -1):
            a = inputs[i]
            d = (d @ self.weights[i]) * ((a > 0).float() if self._relu else 1 - a * a)
            outputs.insert(0, d)
        if clip_norm is not None:
            squared = sum(
                (a.square().sum(-1) + 1) * d.square().sum(-1)
                for a, d in zip(inputs, outputs, strict=True)
            )
            factors = (clip_norm / (squared.sqrt() + STABLE)).clamp(max=1.0)  # type: ignore[union-attr]
            outputs = [d * factors[..., None] for d in outputs]
        weights = [d.transpose(1, 2) @ a for a, d in zip(inputs, outputs, strict=True)]
        return weights + [d.sum(1) for d in outputs]


def _padded(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of each model's sample, padded to [K, B], and which of them are valid."""
    longest = max(int(drawn.sum(1).max()), 1)
    rows = drawn.float().topk(longest, dim=1).indices
    return rows, drawn.gather(1, rows).float()

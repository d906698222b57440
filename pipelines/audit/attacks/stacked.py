"""Train many models of one shape side by side, each on its own half of the records.

The steps are those of `blindsum.platform.training.local.LocalTrainer` (Poisson samples, clipped
sums, Gaussian noise, the public divisor), for K fully connected models at a time: a batched matrix
product costs little more than a single one. The norm of one record's gradient does not need that
gradient: for a linear layer it is |d| |a| (Goodfellow, arXiv:1510.01799).

Legend: K models, N records, B the padded length of their samples, I and O a layer's inputs and
outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blindsum.platform.job.model_section import Linear, Mlp
from blindsum.platform.job.schema import Job
from blindsum.platform.training.clipping.clipped import STABLE
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.models import build_model


@dataclass(frozen=True)
class Recipe:
    """Training settings of every model.

    `noise` is the noise multiplier; `clip_norm` None means that gradients are not clipped.
    """

    steps: int
    sampling_rate: float
    divisor: float
    learning_rate: float
    clip_norm: float | None = None
    noise: float = 0.0


def stackable(job: Job) -> bool:
    """Return whether the job's model is fully connected, the only kind that `Stack` supports."""
    return isinstance(job.model, (Linear, Mlp))


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
        """Take all steps.

        Args:
            features: float32 [N, I].
            labels: [N, ...], as the loss takes them.
            members: bool [K, N]: which records each model is trained on.
        """
        for _ in range(recipe.steps):
            drawn = torch.rand(members.shape, generator=generator) < recipe.sampling_rate
            rows, valid = _padded(drawn & members)
            gradients = self._sums(features[rows], labels[rows], valid, recipe)
            for one, gradient in zip((*self.weights, *self.biases), gradients, strict=True):
                if recipe.clip_norm is not None and recipe.noise:
                    noise = torch.randn(gradient.shape, generator=generator)
                    gradient.add_(noise, alpha=recipe.noise * recipe.clip_norm)
                one.sub_(gradient, alpha=recipe.learning_rate / recipe.divisor)

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
        self, features: Tensor, labels: Tensor, valid: Tensor, recipe: Recipe
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
        if recipe.clip_norm is not None:
            squared = sum(
                (a.square().sum(-1) + 1) * d.square().sum(-1)
                for a, d in zip(inputs, outputs, strict=True)
            )
            factors = (recipe.clip_norm / (squared.sqrt() + STABLE)).clamp(max=1.0)  # type: ignore[union-attr]
            outputs = [d * factors[..., None] for d in outputs]
        weights = [d.transpose(1, 2) @ a for a, d in zip(inputs, outputs, strict=True)]
        return weights + [d.sum(1) for d in outputs]


def _padded(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of each model's sample, padded to [K, B], and which of them are valid."""
    longest = max(int(drawn.sum(1).max()), 1)
    rows = drawn.float().topk(longest, dim=1).indices
    return rows, drawn.gather(1, rows).float()

"""Attack as a server that plants the first layer, which sorts records into bins.

Fowl, Geiping, Czaja, Goldblum and Goldstein, "Robbing the Fed: directly obtaining private data in
federated learning with modified models", ICLR 2022, section 3. Every neuron measures the same
direction h and has its own threshold, in ascending order; the next layer treats all neurons alike.
A record activates the neurons whose threshold is below its measurement, so the gradients of two
neighbouring neurons differ by the records of one bin: a bin with a single record reveals it
exactly, however large the batch.

A model that begins with convolutions or with anything else cannot be given such weights. There the
server puts the layer in front of it (`InFront`), as in the paper's section 3: that is another model
than the job's.

Weights come from the job's seed, so a server that plants them has to send silos another model. A
silo whose owner approved the job knows the digest of its initial weights and refuses any others
(`blindsum.platform.state.approval`). Every silo builds the model from the job file, so a layer in
front of it takes another job, which no owner has approved.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def planted(model: nn.Module, first: nn.Linear, public: Tensor, seed: int = 0) -> nn.Module:
    """Return a copy of the model with its first two linear layers set for the attack.

    Args:
        first: the model's first linear layer, followed by ReLU.
        public: records [Z, n] like those attacked, from which to choose the thresholds.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    position = next(i for i, m in enumerate(linear) if m is first)
    made = copy.deepcopy(model)
    layers = [m for m in made.modules() if isinstance(m, nn.Linear)][position : position + 2]
    generator = torch.Generator().manual_seed(seed)
    _set(layers[0], public, generator)
    if len(layers) > 1:
        _treat_alike(layers[1], generator)
    return made


class InFront(nn.Module):
    """The job's model behind a layer that sorts its records into bins.

    What the layer adds to a record is the same multiple of random numbers for all its values, small
    enough for the model to work as before.

    Args:
        bins: neurons of the layer.
        public: records [Z, n] like those attacked, from which to choose the thresholds.
    """

    def __init__(self, model: nn.Module, bins: int, public: Tensor, seed: int = 0) -> None:
        super().__init__()
        generator, features = torch.Generator().manual_seed(seed), public.shape[1]
        self.first, self.activation = nn.Linear(features, bins), nn.ReLU()
        self.second, self.model = nn.Linear(bins, 1), copy.deepcopy(model)
        self._added = torch.randn(features, generator=generator)
        _set(self.first, public, generator)
        _treat_alike(self.second, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's outputs, [B, outputs], on records [B, n]."""
        measured = self.second(self.activation(self.first(x)))
        found: Tensor = self.model(x + measured * self._added)
        return found


def _set(layer: nn.Linear, public: Tensor, generator: torch.Generator) -> None:
    """Let every neuron measure one direction, with thresholds that public records pass equally."""
    bins, features = layer.weight.shape
    direction = torch.randn(features, generator=generator) / features**0.5
    measured = public.float() @ direction
    thresholds = torch.quantile(measured, torch.linspace(0, 1, bins + 2)[1:-1])
    with torch.no_grad():
        layer.weight.copy_(direction.expand(bins, -1))
        layer.bias.copy_(-thresholds)


def _treat_alike(layer: nn.Linear, generator: torch.Generator) -> None:
    """Let a layer treat all neurons before it alike."""
    outputs, bins = layer.weight.shape
    column = torch.randn(outputs, 1, generator=generator)
    with torch.no_grad():
        layer.weight.copy_((column / bins).expand(-1, bins))


def recovered(weight: Tensor, bias: Tensor) -> Tensor:
    """Return one candidate record for each non-empty bin, float64 [r, n]."""
    g, d = weight.double(), bias.double()
    apart = torch.cat([g[:-1] - g[1:], g[-1:]])
    scale = torch.cat([d[:-1] - d[1:], d[-1:]])
    filled = scale.abs() > 1e-7 * scale.abs().max().clamp_min(1e-300)
    return apart[filled] / scale[filled, None]

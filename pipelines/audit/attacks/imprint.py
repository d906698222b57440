"""Attack as a server that plants the first layer, which sorts records into bins.

Fowl, Geiping, Czaja, Goldblum and Goldstein, "Robbing the Fed: directly obtaining private data in
federated learning with modified models", ICLR 2022, section 3. Every neuron measures the same
direction h and has its own threshold, in ascending order; the next layer treats all neurons alike.
A record activates the neurons whose threshold is below its measurement, so the gradients of two
neighbouring neurons differ by the records of one bin: a bin with a single record reveals it
exactly, however large the batch.

Weights come from the job's seed, so a server that plants them has to send silos another model. A
silo whose owner approved the job knows the digest of its initial weights and refuses any others
(`blindsum.platform.state.approval`).
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
    generator = torch.Generator().manual_seed(seed)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    position = next(i for i, m in enumerate(linear) if m is first)
    made = copy.deepcopy(model)
    layers = [m for m in made.modules() if isinstance(m, nn.Linear)][position : position + 2]
    bins, features = first.weight.shape
    direction = torch.randn(features, generator=generator) / features**0.5
    measured = public.float() @ direction
    thresholds = torch.quantile(measured, torch.linspace(0, 1, bins + 2)[1:-1])
    with torch.no_grad():
        layers[0].weight.copy_(direction.expand(bins, -1))
        layers[0].bias.copy_(-thresholds)
        if len(layers) > 1:
            column = torch.randn(layers[1].weight.shape[0], 1, generator=generator)
            layers[1].weight.copy_((column / bins).expand(-1, bins))
    return made


def recovered(weight: Tensor, bias: Tensor) -> Tensor:
    """Return one candidate record for each non-empty bin, float64 [r, n]."""
    g, d = weight.double(), bias.double()
    apart = torch.cat([g[:-1] - g[1:], g[-1:]])
    scale = torch.cat([d[:-1] - d[1:], d[-1:]])
    filled = scale.abs() > 1e-7 * scale.abs().max().clamp_min(1e-300)
    return apart[filled] / scale[filled, None]

"""Find records whose gradient has the observed direction; works for any differentiable model.

Geiping, Bauermeister, Droege and Moeller, "Inverting gradients: how easy is it to break privacy in
federated learning?", NeurIPS 2020: Adam with signed steps on 1 - cosine + total variation, the best
of several starts by its own loss. Labels come from the last bias (Zhao, Mopuri and Bilen, "iDLG",
2020; Wainakh et al., PoPETs 2022), whose gradient is the sum of predicted minus true classes.
Updates of several local steps are matched by taking the same steps (Geiping et al., section 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from blindsum.pipelines.audit.labelling import Labelling
from blindsum.platform.training.losses import RecordLoss, classification

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Local:
    """The local steps behind an update: plain SGD at `rate` over batches in record order."""

    steps: int = 1
    batch: int = 0  # 0: all records in every step
    rate: float = 1.0


@dataclass(frozen=True)
class Effort:
    """The attacker's effort and search range.

    `variation` weighs the total variation of pictures of `shape` (channels, height, width), in
    units of the range.
    """

    iterations: int = 1000
    restarts: int = 4
    rate: float = 0.05
    variation: float = 0.0
    shape: tuple[int, int, int] | None = None
    low: float = 0.0
    high: float = 1.0


def match(
    model: nn.Module,
    update: list[Tensor],
    labels: Tensor,
    features: int,
    effort: Effort,
    local: Local | None = None,
    seed: int = 0,
    loss: RecordLoss = classification,
) -> tuple[Tensor, float]:
    """Return the records [B, features] that explain the update best, and their 1 - cosine.

    Args:
        update: one tensor per trainable parameter: a sum or mean of gradients, or of local steps.
        labels: [B, ...], as `labels_from_bias` returns them.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    start = {name: p.detach() for name, p in model.named_parameters()}
    target = torch.cat([one.flatten() for one in update])
    target = target / target.norm().clamp_min(1e-20)
    explained = _explained(model, names, start, labels, local or Local(), loss)
    generator = torch.Generator().manual_seed(seed)
    shape = (effort.restarts, len(labels), features)
    span = effort.high - effort.low
    x = effort.low + span * (0.25 + 0.5 * torch.rand(shape, generator=generator))
    x.requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=effort.rate * span)
    turns = [int(effort.iterations * share) for share in (0.375, 0.625, 0.875)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, turns, gamma=0.1)

    def away() -> Tensor:
        found = vmap(explained, randomness="different")(x)  # dropout
        apart: Tensor = 1 - (found @ target) / found.norm(dim=1).clamp_min(1e-20)
        return apart

    for _ in range(effort.iterations):
        optimizer.zero_grad()
        cost = away()
        if effort.shape and effort.variation:
            cost = cost + effort.variation / span * _variation(x, effort.shape)
        (x.grad,) = torch.autograd.grad(cost.sum(), x)
        x.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(effort.low, effort.high)
    with torch.no_grad():
        left = away()
    best = int(left.argmin())
    return x.detach()[best], float(left[best])


def labels_from_bias(
    model: nn.Module,
    bias: Tensor,
    records: int,
    features: int,
    effort: Effort,
    labelling: Labelling,
    seed: int = 0,
) -> Tensor:
    """Return labels [B, ...] estimated from the last bias's gradient, [outputs], a sum.

    The model's outputs on made-up records stand in for its outputs on the attacked records.
    """
    generator = torch.Generator().manual_seed(seed)
    made_up = effort.low + (effort.high - effort.low) * torch.rand(
        256, features, generator=generator
    )
    with torch.no_grad():
        return labelling.from_bias(model(made_up), bias, records)


def _explained(
    model: nn.Module,
    names: list[str],
    start: Parameters,
    labels: Tensor,
    local: Local,
    record_loss: RecordLoss,
) -> Callable[[Tensor], Tensor]:
    """Return a function from records to the flat update they would cause, differentiable."""

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        output = functional_call(model, parameters, (x,))
        return record_loss(output, y).mean()

    def update(x: Tensor) -> Tensor:
        parameters, batch = dict(start), local.batch or len(labels)
        parts = max(len(labels) // batch, 1)
        for step in range(local.steps):
            rows = slice((step % parts) * batch, (step % parts + 1) * batch)
            gradient = grad(loss)(parameters, x[rows], labels[rows])
            parameters = {n: p - local.rate * gradient[n] for n, p in parameters.items()}
        return torch.cat([(start[n] - parameters[n]).flatten() for n in names])

    return update


def _variation(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the mean total variation of each start's pictures, [restarts]."""
    pictures = x.view(len(x), -1, *shape[1:])  # of each record and channel
    across = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().mean((-1, -2))
    along = (pictures[..., :, 1:] - pictures[..., :, :-1]).abs().mean((-1, -2))
    return (across + along).mean(-1)

"""Identify a record among candidates, as an adversary who knows everything but that record.

Balle, Cherubin and Hayes, "Reconstructing training data with informed adversaries", IEEE S&P 2022,
and Hayes, Mahloujifar and Balle, NeurIPS 2023 (prior-aware attacks): the adversary knows all other
records, so it can subtract their part from every update, and holds K candidates, one of which was
in the data. The rest is n g_i + noise, where n is the number of steps that sampled the record:
maximum likelihood picks the candidate. Reconstruction of unknown records fails even at budgets that
protect nothing; this attack does not, so it measures protection.

Gradients are taken at the job's first model and held fixed, which is the adversary's best case.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import nn

from blindsum.pipelines.audit.evidence import Figure, proportion
from blindsum.platform.data.records import Fold
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.losses import RecordLoss, classification

TINY = 1e-30
"""Less than any gradient's square: a number beyond its qualifier has a gradient of zero."""


def identify(
    model: nn.Module,
    fold: Fold,
    plan: PrivacyPlan,
    candidates: int = 256,
    *,
    noise: bool = True,
    trials: int = 2000,
    seed: int = 0,
    loss: RecordLoss = classification,
) -> Figure:
    """Return how often the attack names the right candidate; the floor is a random guess.

    Args:
        noise: False for training without privacy: neither noise nor clipping.
    """
    random = np.random.default_rng(seed)
    rows = random.permutation(len(fold))[:candidates]
    gradients = _gradients(model, fold, rows, plan.clip_norm if noise else None, loss)
    gram = gradients @ gradients.T
    steps = plan.rounds_within_budget * plan.steps_per_round
    target = random.integers(0, len(rows), trials)
    sampled = random.binomial(steps, plan.sampling_rate, trials)
    products = sampled[:, None] * gram[target]
    squared = np.diag(gram)
    if noise:
        deviation = plan.update_noise * plan.clip_norm * np.sqrt(steps)
        values, vectors = np.linalg.eigh(gram)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        products = products + deviation * random.normal(size=(trials, len(rows))) @ root.T
        spread = 4 * np.sqrt(steps * plan.sampling_rate) + 4
        middle = steps * plan.sampling_rate
        counts = np.arange(max(0, int(middle - spread)), min(steps, int(middle + spread)) + 1)
        likelihood = np.full(products.shape, -np.inf)
        for n in counts:  # n is unknown to the adversary: summed out
            fit = (n * products - n**2 * squared / 2) / deviation**2
            weight = stats.binom.logpmf(n, steps, plan.sampling_rate)
            likelihood = np.logaddexp(likelihood, fit + weight)
    else:
        likelihood = products / np.sqrt(np.maximum(squared, TINY))
    hits = int((likelihood.argmax(1) == target).sum())
    return proportion(hits, trials, floor=1 / len(rows))


def _gradients(
    model: nn.Module, fold: Fold, rows: np.ndarray, clip_norm: float | None, loss: RecordLoss
) -> np.ndarray:
    """Return each candidate's gradient, float64 [K, parameters], clipped if `clip_norm` is set."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for row in rows:
        features = torch.from_numpy(fold.features[row : row + 1])
        cost = loss(model(features), torch.from_numpy(fold.labels[row : row + 1])).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(cost, parameters)]).double()
        if clip_norm is not None:
            gradient = gradient * min(1.0, clip_norm / (float(gradient.norm()) + 1e-6))
        found.append(gradient.numpy())
    return np.stack(found)

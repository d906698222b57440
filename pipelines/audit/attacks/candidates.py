"""Which of these records was it? An adversary who knows everything but one record.

Balle, Cherubin and Hayes, "Reconstructing training data with informed adversaries", IEEE S&P 2022,
and Hayes, Mahloujifar and Balle, NeurIPS 2023 (prior-aware attacks): the adversary knows all other
records, so it can take their part off every update, and holds K candidates of which one was in the
data. What is left is n g_i + noise, with n the steps that sampled the record: maximum likelihood picks
the candidate. Reconstruction of unknown records fails at budgets that protect nothing; this attack is
the yardstick that does not.

Gradients are taken at the job's first model and held there, which is the adversary's best case.
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
"""Less than any gradient's square: a number beyond its qualifier has none."""


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
    """How often the candidate is named; the floor is a guess among them.

    Args:
        noise: False for training without privacy: no noise, and no clipping either.
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
        for n in counts:  # how often the record was sampled is not known: summed out
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
    """Each candidate's gradient, float64 [K, parameters], clipped unless told otherwise."""
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

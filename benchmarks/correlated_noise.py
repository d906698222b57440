"""Measure whether correlated noise, or clipping each layer by itself, helps under privacy.

    python benchmarks/correlated_noise.py --data tox21.csv.gz --json build/correlated_noise.json

Kernel features of a public table, 60 full steps with momentum, noise as three silos with one
colluder share it, delta 1e-4. A seed is another division of the scaffolds, of which a fifth is held
out.

    independent   Gaussian noise of each step by itself (DP-SGD)
    damped NU     the noise of a step partly cancels earlier noise: rows of C^-1, where C is the
                  Toeplitz matrix of the coefficients of (1 - NU x)^(-1/2) (Choquette-Choo et al.,
                  ICLR 2024). A record takes part in all steps, so the sensitivity is the norm of
                  the row sums of C (Choquette-Choo et al., NeurIPS 2023)
    layers        a network of 32 hidden units; each layer's gradient is clipped to C / sqrt(2)
    together      the same network, both layers' gradients clipped together to C

The accounting is that of one Gaussian mechanism, by dp-accounting, without sampling, which would
help independent noise alone. Learning rates 2, 4 and 8; the table shows the best of them, for every
arm alike.

JSON: {epsilon}.{arm}.{mean,se,gain,gain_se,rate}; gain is over independent noise (of layers: over
together), paired by seed.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dp_accounting.pld import accountant, common
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from blindsum.pipelines.selection.public_records import PublicRecords, read_public

FEATURES, STEPS, HIDDEN, MOMENTUM, SERVER = "kernel-64", 60, 32, 0.9, 0.3
EPSILONS, RATES, DAMPED, DELTA, SILOS, COLLUDERS = (
    (8, 3, 1),
    (2, 4, 8),
    (0.5, 0.9, 0.99),
    1e-4,
    3,
    1,
)
console = Console()


def toeplitz(damping: float) -> np.ndarray:
    """Return C, float64 [STEPS, STEPS]; the identity for damping 0."""
    first = np.ones(STEPS)
    for k in range(1, STEPS):
        first[k] = first[k - 1] * (2 * k - 1) / (2 * k) * damping
    shifts = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
    return np.where(shifts >= 0, first[np.abs(shifts)], 0.0)


def mixing(damping: float, epsilon: float) -> np.ndarray:
    """Return what turns independent standard normals into the steps' noise, for clip norm 1."""
    matrix = toeplitz(damping)
    sensitivity = float(np.linalg.norm(matrix.sum(1)))
    sigma = accountant.get_smallest_gaussian_noise(
        common.DifferentialPrivacyParameters(epsilon, DELTA), 1, sensitivity=sensitivity
    )
    scale = float(sigma) * math.sqrt(SILOS / (SILOS - COLLUDERS))
    return np.linalg.inv(matrix) * scale


def trained(
    x: torch.Tensor, y: torch.Tensor, noise: np.ndarray, rate: float, hidden: int, layers: bool
) -> list[torch.Tensor]:
    """Train by full steps; returns the weights, the last row of each its biases."""
    known, y = (~torch.isnan(y)).float(), torch.nan_to_num(y)
    width, tasks = x.shape[1], y.shape[1]
    shapes = [(width, hidden), (hidden + 1, tasks)] if hidden else [(width, tasks)]
    weights = [torch.zeros(shape) for shape in shapes]
    if hidden:
        for one in weights:
            one.uniform_(-1, 1).div_(math.sqrt(one.shape[0]))
    sizes = [one.numel() for one in weights]
    drawn = torch.as_tensor(noise @ np.random.default_rng().normal(size=(STEPS, sum(sizes))))
    speed = [torch.zeros_like(one) for one in weights]
    for step in range(STEPS):
        inner = with_ones(torch.tanh(x @ weights[0])) if hidden else x
        wrong = [(torch.sigmoid(inner @ weights[-1]) - y) * known]
        inputs = [inner]
        if hidden:
            wrong.insert(0, (wrong[0] @ weights[1][:-1].T) * (1 - inner[:, :-1] ** 2))
            inputs.insert(0, x)
        squares = [
            a.square().sum(1) * b.square().sum(1) for a, b in zip(inputs, wrong, strict=True)
        ]
        if not layers:
            squares = [torch.stack(squares).sum(0)] * len(squares)
        bound = 1 / math.sqrt(len(squares)) if layers else 1.0
        for i, part in enumerate(torch.split(drawn[step].float(), sizes)):
            factor = (bound / squares[i].sqrt().clamp(min=1e-10)).clamp(max=1.0)
            total = inputs[i].T @ (wrong[i] * factor[:, None]) + part.view_as(weights[i])
            speed[i] = MOMENTUM * speed[i] + rate * total / len(x)
            weights[i] = weights[i] - SERVER * speed[i]
    return weights


def with_ones(x: torch.Tensor) -> torch.Tensor:
    """Append the input of biases."""
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def score(records: PublicRecords, seed: int, arm: str, noise: np.ndarray, rate: float) -> float:
    rows = records.parts(f"held-out-{seed}", 5) == 0
    x = with_ones(torch.as_tensor(np.asarray(records.features[FEATURES])))
    y = torch.as_tensor(records.labels[:, 0])
    hidden = HIDDEN if arm in ("layers", "together") else 0
    weights = trained(x[~rows], y[~rows], noise, rate, hidden, arm == "layers")
    found = x[rows]
    for one in weights[:-1]:
        found = with_ones(torch.tanh(found @ one))
    said, true = (found @ weights[-1]).numpy(), y[rows].numpy()
    known = ~np.isnan(true)
    return float(np.mean([roc_auc_score(true[k, i], said[k, i]) for i, k in enumerate(known.T)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a table of binary assays")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = read_public(given.data, "smiles", [], [FEATURES])
    arms = {"independent": 0.0, **{f"damped {nu}": nu for nu in DAMPED}}
    arms |= {"together": 0.0, "layers": 0.0}
    tree = dict[str, dict[str, Any]]()
    for epsilon in EPSILONS:
        scores = dict[str, tuple[np.ndarray, float]]()
        for arm, damping in arms.items():
            noise = mixing(damping, epsilon)
            found = {
                rate: np.array([score(records, s, arm, noise, rate) for s in range(given.seeds)])
                for rate in RATES
            }
            best = max(found, key=lambda one: float(found[one].mean()))
            scores[arm] = found[best], best
        tree[str(epsilon)] = {}
        for arm, (values, rate) in scores.items():
            gain = values - scores["together" if arm == "layers" else "independent"][0]
            root = math.sqrt(given.seeds)
            tree[str(epsilon)][arm] = {
                "mean": float(values.mean()),
                "se": float(values.std(ddof=1) / root),
                "gain": float(gain.mean()),
                "gain_se": float(gain.std(ddof=1) / root),
                "rate": rate,
            }
    shown = Table(title="mean AUROC; gain (standard error over divisions)", box=None)
    for heading in ("arm", *(f"epsilon {e}" for e in tree)):
        shown.add_column(heading)
    for arm in arms:
        cells = [own[arm] for own in tree.values()]
        shown.add_row(
            arm, *(f"{c['mean']:.3f} {c['gain']:+.4f} ({c['gain_se']:.4f})" for c in cells)
        )
    console.print(shown)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

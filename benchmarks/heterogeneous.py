"""Measure how fast silos whose labels differ reach a figure: FedAvg, FedProx and SCAFFOLD.

    python benchmarks/heterogeneous.py --json build/heterogeneous.json

scikit-learn's digits (1,797 records, 10 classes), a held-out fifth, in five silos. Silo i's records
are drawn by a Dirichlet distribution over the classes (Hsu, Qi and Brown, 2019): the smaller alpha,
the more silos differ. Trainer, plan, noise and control variates are the product's own; nothing is
encrypted, rounded or charged. For each arm, noise and alpha, the learning rate
is the one with the best accuracy over all rounds, mean over the seeds of `--choose`; figures are
from other seeds.

    rounds_to      rounds until the held-out accuracy first is that of `--figure`; the number of
                   rounds if it never is. Mean over seeds
    final          mean accuracy after the last round, and its standard error

JSON: {noise, alpha}.{arm}.{rate,rounds_to,reached,final,final_se}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.accounting import calibrated
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.control_variates import ControlVariates
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters

SILOS, ROUNDS, STEPS, SAMPLING, DELTA = 5, 30, 20, 0.25, 1e-4
RATES = (0.1, 0.3, 1.0)
ARMS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedProx 0.1": {"proximal": 0.1},
    "FedProx 1": {"proximal": 1.0},
    "SCAFFOLD": {"control_variates": True},
}
console = Console()


@dataclass(frozen=True)
class Task:
    """One run. `epsilon` is None without noise."""

    arm: str
    epsilon: float | None
    alpha: float
    rate: float
    seed: int


def parts(alpha: float, seed: int) -> tuple[list[Fold], Fold]:
    """Return the silos' records, and those for scoring."""
    random = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = random.permutation(len(y))
    held, trained = order[: len(y) // 5], order[len(y) // 5 :]
    owner = np.empty(len(trained), np.int64)
    for label in range(10):
        of = y[trained] == label
        owner[of] = random.choice(SILOS, of.sum(), p=random.dirichlet([alpha] * SILOS))
    return [Fold(x[trained[owner == i]], y[trained[owner == i]]) for i in range(SILOS)], Fold(
        x[held], y[held]
    )


def curve(task: Task) -> list[float]:
    """Return the held-out accuracy after each round."""
    torch.set_num_threads(1)
    folds, held = parts(task.alpha, task.seed)
    section = TrainingSection(
        rounds=ROUNDS,
        local_steps=STEPS,
        sampling_rate=SAMPLING,
        expected_batch_size=SAMPLING * float(np.mean([len(f) for f in folds])),
        learning_rate=task.rate,
        **ARMS[task.arm],
    )
    torch.manual_seed(task.seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    own, random = _plan(task.epsilon), cryptographic_generator()
    if own is None:
        random = seeded_generator(task.seed)
    trainers = [LocalTrainer(model, fold, section, own, random) for fold in folds]
    vector, found = get_parameters(model), []
    roster = tuple(str(i) for i in range(SILOS))
    variates = [ControlVariates.none(vector.size, roster) for _ in folds]
    for round in range(1, ROUNDS + 1):
        sent = [
            one.train(
                vector, 1.0, round, None, v.correction if section.control_variates else None
            ).values
            for one, v in zip(trainers, variates, strict=True)
        ]
        mean = np.mean(sent, axis=0, dtype=np.float64)
        length = STEPS * section.rate(round)
        variates = [v.after(s, mean, length) for v, s in zip(variates, sent, strict=True)]
        vector = (vector + mean).astype(np.float32)
        set_parameters(model, vector)
        chosen = held.outputs(model).argmax(1).numpy()
        found.append(float((chosen == held.labels).mean()))
    return found


def _plan(epsilon: float | None) -> PrivacyPlan | None:
    if epsilon is None:
        return None
    sigma, planned = calibrated(epsilon, DELTA, SAMPLING, ROUNDS * STEPS)
    return PrivacyPlan(
        epsilon=epsilon,
        delta=DELTA,
        sampling_rate=SAMPLING,
        noise_multiplier=sigma,
        clip_norm=1.0,
        steps_per_round=STEPS,
        rounds=ROUNDS,
        rounds_within_budget=ROUNDS,
        epsilon_planned=planned,
    )


def summary(curves: np.ndarray, figure: float) -> dict[str, float]:
    """Return the figures of curves [seeds, rounds]."""
    reached = (curves >= figure).any(axis=1)
    rounds = np.where(reached, (curves >= figure).argmax(axis=1) + 1, ROUNDS)
    last = curves[:, -1]
    return {
        "rounds_to": round(float(rounds.mean()), 1),
        "reached": round(float(reached.mean()), 2),
        "final": round(float(last.mean()), 4),
        "final_se": round(float(last.std(ddof=1) / np.sqrt(len(last))), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.1])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[8.0])
    parser.add_argument("--figure", nargs=2, type=float, default=[0.9, 0.8], help="without, with")
    parser.add_argument("--choose", type=int, default=1, help="seeds for the choice of the rate")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    started, tree = time.monotonic(), {}
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        for alpha in given.alphas:
            for epsilon in (None, *given.epsilons):
                found = {}
                for arm in ARMS:
                    tried = [
                        Task(arm, epsilon, alpha, rate, 100 + seed)
                        for rate in RATES
                        for seed in range(given.choose)
                    ]
                    means = np.reshape(
                        [np.mean(one) for one in pool.map(curve, tried)], (len(RATES), -1)
                    )
                    rate = RATES[int(means.mean(axis=1).argmax())]
                    runs = [Task(arm, epsilon, alpha, rate, seed) for seed in range(given.seeds)]
                    curves = np.array(list(pool.map(curve, runs)))
                    figure = given.figure[epsilon is not None]
                    found[arm] = {"rate": rate, **summary(curves, figure)}
                noise = "none" if epsilon is None else f"local, epsilon {epsilon:g}"
                tree[f"{noise}, alpha {alpha:g}"] = found
                show(f"{noise}, alpha {alpha:g}, accuracy {figure:g}", found)
                if given.json:
                    given.json.parent.mkdir(parents=True, exist_ok=True)
                    given.json.write_text(json.dumps(tree, indent=1))
    console.print(f"{time.monotonic() - started:.0f} s")


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    table = Table(title=title, box=None)
    for heading in ("arm", "rate", "rounds to it", "reached by", "after the last round"):
        table.add_column(heading)
    for arm, f in found.items():
        final = f"{f['final']:.3f} ({f['final_se']:.3f})"
        table.add_row(arm, f"{f['rate']:g}", f"{f['rounds_to']:g}", f"{f['reached']:.0%}", final)
    console.print(table)


if __name__ == "__main__":
    main()

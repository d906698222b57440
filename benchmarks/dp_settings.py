"""Measure DP settings: clip norm, learning rate, server optimizer, adaptive clipping.

    python benchmarks/dp_settings.py --json build/dp_settings.json

Eight silos with shared noise on scikit-learn's digits and breast cancer, as in utility.py: a linear
classifier, sampling rate 0.25, 40 rounds, delta 1e-4, ten seeds with paired splits, and the
product's own trainer, plan, integers and server optimizers. Learning rates are chosen on validation
folds of three seeds, which is not charged because these records are public.

    clip C            with the learning rate chosen for this clip norm
    clip C, kept      with the learning rate chosen for clip norm 1
    adaptive from C   the same, with privacy.clip_quantile 0.5 starting from C
    momentum, adam    server optimizers; their learning rate and the silos' are chosen together

JSON: {dataset}.{epsilon}.{arm}.{mean,se,learning_rate,server_rate}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from utility import (
    COLLUDERS,
    SEEDS,
    TUNING,
    NoisedSums,
    Task,
    figures,
    parts,
    plan_of,
    records,
    sigma,
)

from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.adaptive_clipping import next_clipping
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.privacy.shared_noise import share_deviation
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.simulation import Simulation

DATASETS, EPSILONS, SILOS, RATE, ROUNDS, QUANTILE = (
    ("digits", "breast_cancer"),
    (1.0, 3.0, 8.0),
    8,
    0.25,
    40,
    0.5,
)
CLIPS, STARTS = (0.1, 0.3, 1.0, 3.0, 10.0), (0.1, 10.0)
LEARNING_RATES = tuple(2.0**k for k in range(-6, 8))
SERVER_RATES = {
    "momentum": ((0.1, 0.3, 1.0), (0.25, 0.5, 1.0, 2.0, 4.0)),
    "adam": ((0.01, 0.03, 0.1, 0.3), (0.5, 1.0, 2.0)),
}
console = Console()


@dataclass(frozen=True)
class Setting:
    """The settings of one training with eight silos."""

    dataset: str
    epsilon: float
    learning_rate: float
    clip: float = 1.0
    adaptive: bool = False
    optimizer: str = "sgd"
    server_rate: float = 1.0
    seed: int = 0
    validation: bool = False


def accuracy(setting: Setting) -> float:
    """Train once under shared noise; return the accuracy."""
    torch.set_num_threads(1)
    choice = (RATE, ROUNDS, setting.learning_rate)
    folds, held = parts(
        Task(
            setting.dataset,
            SILOS,
            setting.epsilon,
            "shared",
            setting.seed,
            choice,
            setting.validation,
        )
    )
    batch = RATE * float(np.mean([len(fold.labels) for fold in folds]))
    z = sigma(setting.epsilon, RATE, ROUNDS)
    counted = max(batch * SILOS / 20, z) if setting.adaptive else 0.0  # as count_deviation
    plan = plan_of(setting.epsilon, RATE, ROUNDS, setting.clip, z, count_noise=counted)
    plan = replace(plan, share=share_deviation(plan.update_noise * setting.clip, SILOS, COLLUDERS))
    model = nn.Linear(held.features.shape[1], int(records(setting.dataset)[1].max()) + 1)
    set_parameters(model, np.zeros_like(get_parameters(model)))
    random = cryptographic_generator()
    section = TrainingSection(
        rounds=ROUNDS,
        local_steps=1,
        sampling_rate=RATE,
        expected_batch_size=batch,
        learning_rate=setting.learning_rate,
    )
    trainers = [LocalTrainer(model, fold, section, plan, random) for fold in folds]
    server = ServerSection.model_validate(
        {"optimizer": setting.optimizer, "learning_rate": setting.server_rate}
    )
    federation = Simulation(model, trainers, server, NoisedSums(plan, batch, SILOS, random))
    clipping = 1.0
    for _ in range(ROUNDS):
        updates = federation.round(clipping)
        if setting.adaptive:
            noise = random.normal(0, share_deviation(counted, SILOS, COLLUDERS), SILOS).sum()
            within = sum(update.unclipped for update in updates) + noise
            clipping = next_clipping(clipping, 0.5 + within / (batch * SILOS), QUANTILE)
    with torch.no_grad():
        found = model(torch.from_numpy(held.features)).argmax(1).numpy()
    return float((found == held.labels).mean())


def best(pool: ProcessPoolExecutor, candidates: list[list[Setting]]) -> list[Setting]:
    """Return each list's setting with the best mean accuracy on validation folds."""
    trials = [
        replace(one, seed=seed, validation=True)
        for one in itertools.chain(*candidates)
        for seed in range(TUNING)
    ]
    scores = np.array(list(pool.map(accuracy, trials, chunksize=4))).reshape(-1, TUNING).mean(1)
    found, start = [], 0
    for group in candidates:
        found.append(group[int(scores[start : start + len(group)].argmax())])
        start += len(group)
    return found


def arms(pool: ProcessPoolExecutor, dataset: str, epsilon: float) -> dict[str, Setting]:
    """Choose the learning rates; return every arm's setting."""
    plain = [[Setting(dataset, epsilon, rate, clip) for rate in LEARNING_RATES] for clip in CLIPS]
    servers = [
        [
            Setting(dataset, epsilon, rate, optimizer=name, server_rate=server)
            for server, rate in itertools.product(*rates)
        ]
        for name, rates in SERVER_RATES.items()
    ]
    chosen = best(pool, plain + servers)
    named = {f"clip {clip:g}": one for clip, one in zip(CLIPS, chosen, strict=False)}
    kept = named["clip 1"]
    for start in STARTS:
        named[f"clip {start:g}, kept"] = replace(kept, clip=start)
    for start in (STARTS[0], 1.0, STARTS[1]):
        named[f"adaptive from {start:g}"] = replace(kept, clip=start, adaptive=True)
    return named | dict(zip(SERVER_RATES, chosen[len(CLIPS) :], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started, tree = time.monotonic(), dict[str, Any]()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for dataset, epsilon in itertools.product(DATASETS, EPSILONS):
            named = arms(pool, dataset, epsilon)
            runs = [replace(s, seed=seed) for s in named.values() for seed in range(SEEDS)]
            scores = np.array(list(pool.map(accuracy, runs, chunksize=4))).reshape(-1, SEEDS)
            tree.setdefault(dataset, {})[f"{epsilon:g}"] = {
                arm: figures(row)
                | {"learning_rate": one.learning_rate, "server_rate": one.server_rate}
                for (arm, one), row in zip(named.items(), scores, strict=True)
            }
    for dataset, by_epsilon in tree.items():
        table = Table(title=f"{dataset}: accuracy (standard error), learning rate", box=None)
        for heading in ("arm", *(f"epsilon {e}" for e in by_epsilon)):
            table.add_column(heading)
        for arm in by_epsilon["1"]:
            cells = [by_epsilon[e][arm] for e in by_epsilon]
            table.add_row(
                arm, *(f"{c['mean']:.3f} ({c['se']:.3f})  {c['learning_rate']:g}" for c in cells)
            )
        console.print(table)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

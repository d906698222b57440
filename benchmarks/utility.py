"""Measure the cost of privacy in accuracy: shared noise against pooled data, local noise and alone.

    python benchmarks/utility.py --json build/utility.json --plot build/utility.svg
    python benchmarks/utility.py --data FILE.csv.gz --smiles smiles --target p_np --json FILE

A linear classifier is trained on scikit-learn's digits and breast cancer, or on ECFP of a table of
molecules. n silos have equal, random parts. All arms take one step of (DP-)SGD a round:

    central   one server has all records, DP-SGD
    shared    silos' integers with rounded Gaussian shares, one silo may collude (privacy.colluders)
    local     every silo adds the whole noise to its own update (privacy.noise: local)
    alone     one silo trains alone, DP-SGD
    none      all records, no privacy

Trainer, calibration, shares and server optimizer are the product's own. The sums add the integers
that would be encrypted (encryption changes no bit of them: tests/he). There are ten seeds; all arms
of a seed have the same split and the same parts. Sampling rate, rounds and learning rate are chosen
for each arm by mean accuracy on validation folds of the first three seeds' training parts. `shared`
uses central's choice, because it is the same algorithm. The choice is not charged, because these
records are public. Features are scaled by constants of the whole table, as if these were public.

JSON: {dataset}.{n}.{epsilon}.{arm}.{mean,se,choice}; `minus_central` has the paired differences.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from blindsum.he.packing import quantise
from blindsum.he.parameters import Parameters
from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.job.features_section import Ecfp
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.accounting import calibrate
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.privacy.shared_noise import (
    noised_integers,
    require_fine,
    share_deviation,
    shared_range,
)
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.simulation import Combine, Simulation, mean_update
from blindsum.platform.training.update import Update

mpl.use("Agg")
from matplotlib import pyplot as plt

SILOS, EPSILONS, SEEDS, TUNING = (3, 8, 16), (1.0, 3.0, 8.0), 10, 3
ARMS = ("central", "shared", "local", "alone", "none")
DELTA, CLIP, COLLUDERS, LARGEST_NORM = 1e-4, 1.0, 1, 6.0
CHOICES = tuple(itertools.product((0.25, 1.0), (12, 40, 120), (0.25, 0.5, 1.0, 2.0, 4.0)))
Choice = tuple[float, int, float]  # sampling rate, rounds, learning rate
console = Console()


@dataclass(frozen=True)
class Task:
    """The settings of one training: data, arm and seed. It is scored on the test or validation
    fold."""

    dataset: str
    silos: int
    epsilon: float
    arm: str
    seed: int
    choice: Choice
    validation: bool


@lru_cache(maxsize=8)
def records(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features, float32 with norm at most LARGEST_NORM, and labels, int64."""
    if dataset in ("digits", "breast_cancer"):
        x, y = (load_digits if dataset == "digits" else load_breast_cancer)(return_X_y=True)
        x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    else:
        x, y = molecules(*json.loads(dataset))
    x = x / np.maximum(1.0, np.linalg.norm(x, axis=1) / LARGEST_NORM)[:, None]
    return x.astype(np.float32), y.astype(np.int64)


def molecules(path: str, smiles: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    import pandas
    import pyarrow as pa

    table = pandas.read_parquet(path) if path.endswith(".parquet") else pandas.read_csv(path)
    table = table[[smiles, target]].dropna()
    section = Ecfp(kind="ecfp", bits=1024)
    found = features_of(section).compute(pa.table({"smiles": table[smiles].astype(str)}))
    labels = table[target].to_numpy()[found.usable]
    return dense(found.features), np.unique(labels, return_inverse=True)[1]


def parts(task: Task) -> tuple[list[Fold], Fold]:
    """Return the silos' training records, and the records for scoring."""
    x, y = records(task.dataset)
    x, held_x, y, held_y = train_test_split(x, y, test_size=0.2, random_state=task.seed, stratify=y)
    if task.validation:
        x, held_x, y, held_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    order = np.random.default_rng(task.seed).permutation(len(y))
    silos = 1 if task.arm in ("central", "none") else task.silos
    folds = [Fold(x[i], y[i]) for i in np.array_split(order, silos)]
    return folds[:1] if task.arm == "alone" else folds, Fold(held_x, held_y)


@lru_cache(maxsize=256)
def sigma(epsilon: float, rate: float, rounds: int) -> float:
    return calibrate(epsilon, DELTA, rate, rounds)


def accuracy(task: Task) -> float:
    """Train once; return the accuracy."""
    torch.set_num_threads(1)
    rate, rounds, learning_rate = task.choice
    folds, held = parts(task)
    shared, private = task.arm == "shared", task.arm != "none"
    plan = None
    if private:
        z = sigma(task.epsilon, rate, rounds)
        share = share_deviation(z * CLIP, len(folds), COLLUDERS) if shared else None
        plan = plan_of(task.epsilon, rate, rounds, CLIP, z, share=share)
    torch.manual_seed(0)
    model = nn.Linear(held.features.shape[1], int(records(task.dataset)[1].max()) + 1)
    set_parameters(model, np.zeros_like(get_parameters(model)))
    random = cryptographic_generator() if private else seeded_generator(task.seed)
    batch = rate * np.mean([len(fold.labels) for fold in folds])
    section = TrainingSection(
        rounds=rounds,
        local_steps=1,
        sampling_rate=rate,
        expected_batch_size=float(batch),
        learning_rate=learning_rate,
    )
    trainers = [LocalTrainer(model, fold, section, plan, random) for fold in folds]
    combine: Combine
    if shared and plan:
        combine = NoisedSums(plan, batch, len(folds), random)
    else:
        combine = QuantisedMean(folds, random)
    Simulation(model, trainers, ServerSection(), combine).run(rounds)
    with torch.no_grad():
        found = model(torch.from_numpy(held.features)).argmax(1).numpy()
    return float((found == held.labels).mean())


def plan_of(
    epsilon: float,
    rate: float,
    rounds: int,
    clip: float,
    sigma: float,
    *,
    share: float | None = None,
    count_noise: float = 0.0,
) -> PrivacyPlan:
    """Return a plan with one step a round that spends its whole epsilon."""
    return PrivacyPlan(
        epsilon=epsilon,
        delta=DELTA,
        sampling_rate=rate,
        noise_multiplier=sigma,
        clip_norm=clip,
        steps_per_round=1,
        rounds=rounds,
        rounds_within_budget=rounds,
        epsilon_planned=epsilon,
        share=share,
        count_noise=count_noise,
    )


class NoisedSums:
    """The mean step of the integers that silos send under shared noise.

    Args:
        plan: every silo's plan, which has a share.
        batch: the expected size of a silo's sample.
    """

    def __init__(
        self, plan: PrivacyPlan, batch: float, silos: int, random: np.random.Generator
    ) -> None:
        self._share, self._random = plan.share or 0.0, random
        self._limit, self._cut = Parameters.derive(silos).limit, plan.clip_norm * batch
        self._bound = shared_range(self._cut, self._share)
        require_fine(self._share, self._bound, self._limit)

    def __call__(self, updates: Sequence[Update], clipping: float) -> np.ndarray:
        unit, cut = self._bound * clipping / self._limit, self._cut * clipping
        share = self._share * clipping
        sent = [noised_integers(u.values, cut, share, unit, self._random) for u in updates]
        return np.sum(sent, axis=0) * (unit * updates[0].unit / len(sent))


class QuantisedMean:
    """The mean of the integers that silos send without shared noise. A single silo's update is not
    quantised."""

    def __init__(self, folds: list[Fold], random: np.random.Generator) -> None:
        self._parameters = Parameters.derive(len(folds)) if len(folds) > 1 else None
        self._random = random

    def __call__(self, updates: Sequence[Update], clipping: float) -> np.ndarray:
        if self._parameters is None:
            return mean_update(updates)
        sent = [quantise(u.values, 8.0, self._parameters, self._random).integers for u in updates]
        return np.sum(sent, axis=0) * (8.0 / self._parameters.limit / len(sent))


def settings(datasets: list[str]) -> list[tuple[str, int, float, str]]:
    """Return every (dataset, n, epsilon, arm) to be trained. `central` does not depend on n, and
    `none` depends on neither n nor epsilon."""
    found = []
    for dataset, arm in itertools.product(datasets, ARMS):
        for n in SILOS if arm not in ("central", "none") else (1,):
            found += [(dataset, n, e, arm) for e in (EPSILONS if arm != "none" else (0.0,))]
    return found


def measure(datasets: list[str]) -> dict[tuple[str, int, float, str], tuple[Choice, list[float]]]:
    every = settings(datasets)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as pool:
        tuned = [key for key in every if key[3] != "shared"]
        trials = [
            Task(*key, seed, choice, True)
            for key in tuned
            for choice in CHOICES
            for seed in range(TUNING)
        ]
        scores = np.array(list(pool.map(accuracy, trials, chunksize=4)))
        best = scores.reshape(len(tuned), len(CHOICES), TUNING).mean(2).argmax(1)
        chosen = {key: CHOICES[i] for key, i in zip(tuned, best, strict=True)}
        for dataset, n, epsilon, arm in every:
            if arm == "shared":
                chosen[dataset, n, epsilon, arm] = chosen[dataset, 1, epsilon, "central"]
        runs = [Task(*key, seed, chosen[key], False) for key in every for seed in range(SEEDS)]
        results = np.array(list(pool.map(accuracy, runs, chunksize=4))).reshape(-1, SEEDS)
    return {key: (chosen[key], list(row)) for key, row in zip(every, results, strict=True)}


def tabulated(
    measured: dict[tuple[str, int, float, str], tuple[Choice, list[float]]], datasets: list[str]
) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dataset, n, epsilon in itertools.product(datasets, SILOS, EPSILONS):
        arms: dict[str, Any] = {}
        central = np.array(measured[dataset, 1, epsilon, "central"][1])
        for arm in ARMS:
            pooled = arm in ("central", "none")
            key = (dataset, 1 if pooled else n, 0.0 if arm == "none" else epsilon, arm)
            choice, scores = measured[key]
            arms[arm] = figures(np.array(scores)) | {"choice": list(choice)}
            arms[arm]["minus_central"] = figures(np.array(scores) - central)
        name = dataset if dataset in ("digits", "breast_cancer") else "molecules"
        tree.setdefault(name, {}).setdefault(str(n), {})[f"{epsilon:g}"] = arms
    return tree


def figures(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 5),
        "se": round(float(values.std(ddof=1) / np.sqrt(len(values))), 5),
    }


def show(tree: dict[str, Any]) -> None:
    for dataset, by_n in tree.items():
        table = Table(title=f"{dataset}: accuracy, standard error of ten seeds in brackets")
        for heading in ("silos", "epsilon", *ARMS, "shared - central"):
            table.add_column(heading)
        for n, by_epsilon in by_n.items():
            for epsilon, arms in by_epsilon.items():
                cells = [f"{arms[a]['mean']:.3f} ({arms[a]['se']:.3f})" for a in ARMS]
                apart = arms["shared"]["minus_central"]
                table.add_row(n, epsilon, *cells, f"{apart['mean']:+.4f} ({apart['se']:.4f})")
        console.print(table)


def plot(tree: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(
        len(tree), len(SILOS), figsize=(11, 3.4 * len(tree)), sharey="row", squeeze=False
    )
    for row, (dataset, by_n) in zip(axes, tree.items(), strict=True):
        for axis, (n, by_epsilon) in zip(row, by_n.items(), strict=True):
            for arm in ARMS:
                means = [by_epsilon[e][arm]["mean"] for e in by_epsilon]
                errors = [by_epsilon[e][arm]["se"] for e in by_epsilon]
                style = {"none": ":", "central": "--"}.get(arm, "-")
                axis.errorbar(EPSILONS, means, errors, fmt=f"o{style}", ms=4, capsize=3, label=arm)
            axis.set_xscale("log")
            axis.set_xticks(EPSILONS, [f"{e:g}" for e in EPSILONS])
            axis.minorticks_off()
            axis.set_title(f"{dataset.replace('_', ' ')}, {n} silos", fontsize=10)
            axis.grid(alpha=0.3)
            axis.set_xlabel("epsilon at delta 0.0001")
        row[0].set_ylabel("held-out accuracy")
    axes[0][0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--data", type=Path, help="a CSV or Parquet table of molecules")
    parser.add_argument("--smiles", default="smiles")
    parser.add_argument("--target", default="target")
    given = parser.parse_args()
    started = time.monotonic()
    datasets = ["digits", "breast_cancer"]
    if given.data:
        datasets = [json.dumps([str(given.data.absolute()), given.smiles, given.target])]
    tree = tabulated(measure(datasets), datasets)
    show(tree)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))
    if given.plot:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(tree, given.plot)


if __name__ == "__main__":
    main()

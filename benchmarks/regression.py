"""Measure regressions under differential privacy: coverage of intervals, and accuracy.

    python benchmarks/regression.py --json build/regression.json

Coverage: records are drawn from a known model and dealt to three silos; a run's sums, noise and
steps follow in one process, without encryption, which changes no integer. `--seeds` draws for each
case, eight rounds, shared noise, delta 1e-5, intervals of 95 %.

Accuracy: scikit-learn's breast cancer with all 30 columns, scaled by constants of two digits, three
silos, a quarter held out, ten divisions, shared noise, delta 1e-4. model.kind linear is trained by
DP-SGD on the full sample, with the best of LEARNING_RATES and ROUNDS on the records that score it;
the regression has eight rounds and nothing chosen.

Settings: the error of coefficients (root mean square) by the weight of the information, the clip
norm and the rounds, for 3,000 records, five columns and effects of 0.5 at epsilon 1.

JSON: {coverage: [case and figures], settings: [figures], accuracy: {epsilon: {arm: {mean, se}}}}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from utility import NoisedSums

from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.regression import records as of_records
from blindsum.platform.training.regression.fit import Fit
from blindsum.platform.training.regression.fitting import Regressing
from blindsum.platform.training.regression.inference import infer
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.sums import SumsOptimizer

SILOS = ("a", "b", "c")
EPSILONS, DIVISIONS = (1.0, 3.0), 10
LEARNING_RATES, ROUNDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (20, 60)
CLASSES = {"target": {"column": "y", "classes": [0, 1]}}
NUMBER = {"target": {"column": "y", "center": 0, "scale": 1}}
console = Console(width=120)


@dataclass(frozen=True)
class Case:
    """Records from a known model. Effects are those of a logit; of numbers a third, with residuals
    of deviation 0.6."""

    records: int
    columns: int
    epsilon: float
    effect: float = 0.5
    correlation: float = 0.0
    skewed: bool = False
    rounds: int = 8

    def draw(self, family: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return columns, labels and the true coefficients."""
        random = np.random.default_rng(seed)
        x = random.normal(size=(self.records, self.columns))
        common = random.normal(size=(self.records, 1))
        x = np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * x
        if self.skewed:
            x = (np.exp(x) - 1.6) / 2
        x = x.clip(-5, 5).astype(np.float32)
        truth = np.array([-0.5, *np.linspace(self.effect, -self.effect, self.columns)])
        if family == "gaussian":
            truth = truth / 3
        score = truth[0] + x @ truth[1:]
        if family == "binomial":
            return x, (random.random(len(x)) < 1 / (1 + np.exp(-score))).astype(np.int64), truth
        return x, (score + random.normal(0, 0.6, len(x))).astype(np.float32), truth


CASES = [
    Case(1000, 5, 1),
    Case(3000, 5, 1),
    Case(3000, 5, 1, effect=1.0),
    Case(3000, 5, 3, skewed=True),
    Case(3000, 10, 3, correlation=0.8),
    Case(10000, 20, 1),
    Case(10000, 5, 1, effect=2.0),
    Case(10000, 5, 1, effect=2.0, rounds=4),
    Case(10000, 5, 3, effect=3.0),
    Case(300, 5, 1),
    Case(1000, 30, 1),
]

SETTINGS = [
    *[(weight, 1.0, 8) for weight in (0.25, 0.5, 1.0)],
    *[(0.5, clip, 8) for clip in (0.5, 0.7, 1.4)],
    *[(0.5, 1.0, rounds) for rounds in (1, 2, 4, 16)],
]
"""Weight of the information, clip norm and rounds."""


def job(kind: str, label: dict[str, Any], columns: int, privacy: Any, training: Any) -> Job:
    """Return a job of three silos."""
    return Job.model_validate(
        {
            "name": "measured",
            "silos": [{"name": one, "data": f"{one}.parquet"} for one in SILOS],
            "data": {
                "features": {"kind": "columns", "columns": {f"f{i}": {} for i in range(columns)}},
                "folds": {"kind": "random", "salt": "s", "test_fraction": 0.25},
                **label,
            },
            "model": {"kind": kind},
            "training": training,
            "privacy": privacy,
        }
    )


def fitted(job: Job, x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Regressing, Fit]:
    """Return the fit of a run."""
    labels = y if y.dtype == np.int64 else np.stack([y, np.zeros_like(y)], 1)[:, :, None]
    summed, random = Regressing(job, job.model), np.random.default_rng([seed, 1])  # type: ignore[arg-type]
    own, model = plan(job, SILOS[0]), get_parameters(model_of(job))
    folds = [Fold(x[part], labels[part]) for part in np.array_split(np.arange(len(x)), len(SILOS))]
    parts = [summed.trainer(SimpleNamespace(train=one), own, random) for one in folds]  # type: ignore[arg-type]
    optimizer = SumsOptimizer(summed, job)
    for round in range(1, job.training.rounds + 1):
        updates = [one.train(model, 1.0, round) for one in parts]
        total = np.sum([one.values for one in updates], 0)
        if own and own.share:
            total = total + np.sqrt(len(SILOS)) * own.share * random.standard_normal(total.size)
        model = optimizer.apply(model, total * updates[0].unit / len(SILOS), round, len(SILOS))
    return summed, Fit.of(model, summed.design.columns)


def coverage(case: Case, family: str, seeds: int) -> dict[str, Any]:
    """Return how often intervals contain the truth, for the mean and the worst coefficient; the
    median error, also as a multiple of that without noise; and how often none was given."""
    label = CLASSES if family == "binomial" else NUMBER
    batch = case.records / len(SILOS)
    private = {"noise": "shared", "epsilon": case.epsilon, "delta": 1e-5}
    noised = job("regression", label, case.columns, private, training(case.rounds, batch))
    rounds = 20 if family == "binomial" else 1
    plain = job("regression", label, case.columns, {"noise": "none"}, training(rounds, batch))
    covered, errors, exact, withheld = [], [], [], 0
    for seed in range(seeds):
        x, y, truth = case.draw(family, seed)
        found = infer(noised, *fitted(noised, x, y, seed))
        rows = [row.scaled for row in found.rows if row.scaled and row.scaled.standard_error]
        if len(rows) < len(truth):
            withheld += 1
            continue
        covered.append([row.low <= own <= row.high for row, own in zip(rows, truth, strict=True)])  # type: ignore[operator]
        errors.append([row.standard_error for row in rows])
        if seed < 5:
            without = infer(plain, *fitted(plain, x, y, seed)).rows
            exact.append([row.scaled.standard_error for row in without if row.scaled])
    figures: dict[str, Any] = {"withheld": withheld / seeds}
    if covered:
        figures |= {
            "mean": float(np.mean(covered)),
            "worst": float(np.mean(covered, 0).min()),
            "error": float(np.median(errors)),
            "times": float(np.median(errors) / np.median(exact)) if exact else None,
        }
    return asdict(case) | {"family": family} | figures


def setting(family: str, weight: float, clip: float, rounds: int, seeds: int) -> dict[str, Any]:
    """Return the error of coefficients."""
    case, errors = Case(3000, 5, 1), []
    private = {"noise": "shared", "epsilon": case.epsilon, "delta": 1e-5, "clip_norm": clip}
    section = training(rounds, case.records / len(SILOS))
    label = CLASSES if family == "binomial" else NUMBER
    one = job("regression", label, case.columns, private, section)
    with patch.object(of_records, "INFORMATION_WEIGHT", weight):
        for seed in range(seeds):
            x, y, truth = case.draw(family, seed)
            errors.append(fitted(one, x, y, seed)[1].coefficients - truth)
    return {
        "family": family,
        "information": weight,
        "clip_norm": clip,
        "rounds": rounds,
        "error": float(np.sqrt(np.mean(np.square(errors)))),
    }


def training(rounds: int, batch: float) -> dict[str, Any]:
    """Return the training section of a regression."""
    return {"rounds": rounds, "expected_batch_size": batch}


def divided(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return breast cancer's training records and held-out records."""
    x, y = load_breast_cancer(return_X_y=True)
    center, scale = (np.array([float(f"{v:.2g}") for v in c]) for c in (x.mean(0), x.std(0)))
    x = ((x - center) / scale).clip(-5, 5).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(y))
    held, train = np.split(order, [len(y) // 4])
    return x[train], y[train].astype(np.int64), x[held], y[held]


def auroc_of_regression(epsilon: float, rounds: int, seed: int) -> float:
    """Return the AUROC of a regression."""
    x, y, held, truth = divided(seed)
    private = {"noise": "shared", "epsilon": epsilon, "delta": 1e-4}
    one = job("regression", CLASSES, x.shape[1], private, training(rounds, len(x) / len(SILOS)))
    _, fit = fitted(one, x, y, seed)
    return float(roc_auc_score(truth, held @ fit.coefficients[1:]))


def auroc_of_linear(epsilon: float, rate: float, rounds: int, seed: int) -> float:
    """Return the AUROC of model.kind linear."""
    x, y, held, truth = divided(seed)
    batch = len(x) / len(SILOS)
    section = {
        "rounds": rounds,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": batch,
        "learning_rate": rate,
    }
    private = {"noise": "shared", "epsilon": epsilon, "delta": 1e-4}
    one = job("linear", CLASSES, x.shape[1], private, section)
    model, random, own = model_of(one), cryptographic_generator(), plan(one, SILOS[0])
    set_parameters(model, np.zeros_like(get_parameters(model)))
    folds = [Fold(x[part], y[part]) for part in np.array_split(np.arange(len(x)), len(SILOS))]
    trainers = [LocalTrainer(model, fold, one.training, own, random) for fold in folds]
    noised = NoisedSums(own, batch, len(SILOS), random)  # type: ignore[arg-type]
    averaging = one.training.average
    trained = Simulation(model, trainers, ServerSection(), noised, average=averaging).run(
        rounds, lambda: None
    )
    with torch.no_grad():
        outputs = trained(torch.from_numpy(held)).numpy()
    return float(roc_auc_score(truth, outputs[:, 1] - outputs[:, 0]))


def figures(scores: list[float]) -> dict[str, float]:
    """Return the mean and its standard error."""
    return {
        "mean": float(np.mean(scores)),
        "se": float(np.std(scores, ddof=1) / np.sqrt(len(scores))),
    }


def accuracy(epsilon: float) -> dict[str, Any]:
    """Return the AUROC of each arm."""
    torch.set_num_threads(1)
    seeds = range(DIVISIONS)
    found = {
        f"regression, {rounds} rounds": figures(
            [auroc_of_regression(epsilon, rounds, seed) for seed in seeds]
        )
        for rounds in (1, 2, 4, 8)
    }
    linear = {
        (rate, rounds): figures([auroc_of_linear(epsilon, rate, rounds, seed) for seed in seeds])
        for rate, rounds in itertools.product(LEARNING_RATES, ROUNDS)
    }
    best = max(linear, key=lambda one: linear[one]["mean"])
    return found | {f"linear, rate {best[0]:g}, {best[1]} rounds": linear[best]}


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    table = Table(box=None)
    for heading in max(rows, key=len):
        table.add_column(heading)
    for row in rows:
        cells = [f"{one:.3g}" if isinstance(one, float) else str(one) for one in row.values()]
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=200)
    given = parser.parse_args()
    started, families = time.monotonic(), ("binomial", "gaussian")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(accuracy, EPSILONS)
        cases = [(case, family, given.seeds) for family in families for case in CASES]
        rows = list(pool.map(coverage, *zip(*cases, strict=True)))
        show(rows)
        tried = [(family, *one, given.seeds) for family in families for one in SETTINGS]
        settings = list(pool.map(setting, *zip(*tried, strict=True)))
        show(settings)
        of_epsilon = {f"{e:g}": arms for e, arms in zip(EPSILONS, found, strict=True)}
    for epsilon, arms in of_epsilon.items():
        for arm, one in arms.items():
            console.print(f"epsilon {epsilon}  {arm}: {one['mean']:.3f} ({one['se']:.3f})")
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        tree = {"coverage": rows, "settings": settings, "accuracy": of_epsilon}
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

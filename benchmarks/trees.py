"""Measure boosted trees: what they reach, without and with privacy, and what a tree costs.

    python benchmarks/trees.py --json build/trees.json [--data TABLE ...] [--quick]

Records of breast cancer and digits (scikit-learn), of a million made-up transactions, and of tables
that the user gives (trees_data.py) are divided among silos anew for each seed; a fifth is held out.
Trainer, plan, sums and growth are the product's own, in one process: encrypted sums are the same
integers, as tests/actors/test_trees.py shows. Arms without privacy, with the same settings:

    pooled      XGBoost's `hist` on all silos' records, which gets the bins as features
    federated   trees from the sums over silos
    alone       each silo by itself, mean over silos

Arms under shared noise, at epsilon 1 and 3: `dp_1` and `dp_3` are trees, `linear_1`, ..., `mlp_3`
models trained by DP-SGD. Each has the best of its three settings on a division of its own, at each
epsilon. `same_trees` is the share of trees of `pooled` and `federated` that divide the training
records (20,000 of them) alike, and `margins_differ` the greatest difference of their margins. Trees
differ where two splits are equally good, up to XGBoost's rounding to float32. Held-out records in
bins without a training record go left in XGBoost's trees, and may go right in these.

JSON: {dataset}.{arm}.{auroc,se}, mean and standard error over divisions; {dataset}.{same_trees,
margins_differ,difference,difference_se}, the last two of `federated` minus `pooled`; speed.{fixed,
ratio,seconds_per_tree,...} (trees_speed.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xgboost
from rich.console import Console
from rich.table import Table
from trees_data import Records, breast_cancer, digits, made_up, of_file
from trees_speed import speed

from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer
from blindsum.platform.training.trees.forest import Forest

EPSILONS, TUNING = (1, 3), 0
Outputs = np.ndarray[Any, Any]
console = Console(highlight=False)


@dataclass(frozen=True)
class Size:
    """The settings of a dataset: trees without privacy, and samples and steps of DP-SGD."""

    trees: int = 60
    depth: int = 4
    delta: float = 1e-4
    sampling: float = 0.2
    steps: int = 60
    rates: tuple[float, ...] = (0.3, 1.0, 4.0)


LARGE = Size(100, 6, delta=1e-6, sampling=0.01, steps=300, rates=(4.0, 16.0, 64.0))
PRIVATE_TREES: list[dict[str, Any]] = [
    {"split": "random", "max_depth": 3, "trees": 100, "rate": 0.1, "reg_lambda": 20},
    {"split": "random", "max_depth": 2, "trees": 50, "rate": 0.3, "reg_lambda": 10},
    {"split": "cyclic", "max_depth": 1, "trees": 60, "rate": 0.3, "reg_lambda": 10},
]


def job_of(
    records: Records,
    model: dict[str, Any],
    rate: float,
    rounds: int,
    batch: float,
    sampling: float = 1.0,
    privacy: dict[str, Any] | None = None,
) -> Job:
    """Return a job of the silos. `batch` is the expected number of sampled records of a silo."""
    training = {
        "rounds": rounds,
        "local_steps": 1,
        "sampling_rate": sampling,
        "expected_batch_size": batch,
        "learning_rate": rate,
    }
    return Job.model_validate(
        {
            "name": "trees",
            "seed": 1,
            "silos": [{"name": f"silo-{i}", "data": "none"} for i in range(records.silos)],
            "data": {
                "features": records.features,
                "folds": {"kind": "column"},
                **records.labels,
            },
            "model": model,
            "training": training,
            "privacy": privacy or {"noise": "none"},
        }
    )


def shared(epsilon: float, size: Size) -> dict[str, Any]:
    return {"noise": "shared", "epsilon": epsilon, "delta": size.delta}


def grown(job: Job, folds: Sequence[Fold]) -> Forest:
    """Grow a forest from sums over silos, each of which adds its share of the noise."""
    boosting = Boosting(job, job.model)  # type: ignore[arg-type]
    model = model_of(job)
    trainers = []
    for name, fold in zip(job.roster, folds, strict=False):
        own = plan(job, name)
        random = cryptographic_generator() if own else seeded_generator(job.seed, name)
        trainers.append(TreeTrainer(boosting, job, fold, own and own.in_a_run(), random))
    optimizer, forest = SumsOptimizer(boosting, job), get_parameters(model)
    for round in range(1, job.training.rounds + 1):
        updates = [trainer.train(forest, 1.0, round) for trainer in trainers]
        mean = np.mean([update.values * update.unit for update in updates], 0)
        forest = optimizer.apply(forest, mean, round, len(folds))
    set_parameters(model, forest)
    return cast(Forest, model)


def exact_job(records: Records, size: Size, batch: float) -> Job:
    model = {"kind": "trees", "trees": size.trees, "max_depth": size.depth, "split": "best"}
    return job_of(records, model | {"max_bin": 64}, 0.2, size.trees * size.depth, batch)


def pooled(job: Job, folds: Sequence[Fold]) -> list[xgboost.Booster]:
    """Return XGBoost's forests of all silos' records: one, or one for each task."""
    section: Any = job.model
    bins = Boosting(job, section).bins
    x = np.concatenate([bins.of(fold.features) for fold in folds]).astype(np.float32)
    y = np.concatenate([fold.labels for fold in folds])
    settings = {
        "max_depth": section.max_depth,
        "eta": job.training.learning_rate,
        "tree_method": "hist",
        "max_bin": 256,
        "objective": "binary:logistic",
        "base_score": 0.5,
    }
    if y.ndim == 1 and job.data.outputs > 2:
        several = {"objective": "multi:softprob", "num_class": job.data.outputs, "base_score": 0}
        return [xgboost.train(settings | several, xgboost.DMatrix(x, y), section.trees)]
    labels = [y] if y.ndim == 1 else list(y[:, 0].T)
    found = []
    for one in labels:
        known = ~np.isnan(one)
        found.append(xgboost.train(settings, xgboost.DMatrix(x[known], one[known]), section.trees))
    return found


def margins(boosters: Sequence[xgboost.Booster], bins: Outputs) -> Outputs:
    """Return XGBoost's margins as outputs [records, K]."""
    matrix = xgboost.DMatrix(bins.astype(np.float32))
    found = [one.predict(matrix, output_margin=True) for one in boosters]
    if len(found) == 1 and found[0].ndim == 2:
        return np.asarray(found[0])
    return np.stack(found, 1)


def as_margins(outputs: Outputs, labels: Outputs) -> Outputs:
    """Return a forest's outputs as XGBoost's margins: one for two classes."""
    two = labels.ndim == 1 and outputs.shape[1] == 2
    return outputs[:, 1:] - outputs[:, :1] if two else outputs


def same_trees(
    boosters: Sequence[xgboost.Booster], model: Forest, fold: Fold, bins: Outputs
) -> float:
    """Return the share of trees that divide these records alike."""
    matrix, x = xgboost.DMatrix(bins.astype(np.float32)), torch.from_numpy(fold.features)
    theirs = [one.predict(matrix, pred_leaf=True).reshape(len(x), -1) for one in boosters]
    outputs = model.value.shape[1]
    grown = [1] if fold.labels.ndim == 1 and outputs == 2 else range(outputs)
    alike = []
    for tree in range(len(model.value)):
        for i, output in enumerate(grown):
            # XGBoost's trees of classes lie side by side, those of tasks in a forest of their own.
            leaves = theirs[i][:, tree] if len(theirs) > 1 else theirs[0][:, tree * len(grown) + i]
            ours = _leaves(model, x, tree, output)
            both = len(np.unique(leaves * 2048 + ours))
            alike.append(both == len(np.unique(leaves)) == len(np.unique(ours)))
    return float(np.mean(alike))


def _leaves(model: Forest, x: torch.Tensor, tree: int, output: int) -> Outputs:
    """Return where records end, numbered as the model numbers nodes; unsplit nodes end there."""
    feature = model.feature[tree, output].detach().numpy()
    threshold = model.threshold[tree, output].detach().numpy()
    nodes, rows = np.zeros(len(x), np.intp), np.arange(len(x))
    for _ in range(model.depth):
        columns = feature[nodes].astype(np.intp)
        right = x.numpy()[rows, np.maximum(columns, 0)] >= threshold[nodes]
        nodes = 2 * nodes + 1 + (right & (columns >= 0))
    return nodes


def score(records: Records, model: torch.nn.Module, held: Fold) -> float:
    return records.auroc(held.outputs(model).numpy(), held.labels)


def without_privacy(records: Records, size: Size, seed: int) -> dict[str, float]:
    """Return the figures of one division's arms without privacy."""
    folds, held = records.divided(seed)
    job = exact_job(records, size, float(np.mean([len(fold) for fold in folds])))
    model, boosters = grown(job, folds), pooled(job, folds)
    bins = Boosting(job, job.model).bins  # type: ignore[arg-type]
    theirs = margins(boosters, bins.of(held.features))
    two = held.labels.ndim == 1 and theirs.shape[1] == 1
    scored = np.concatenate([-theirs, theirs], 1) if two else theirs
    several = [
        np.concatenate([f.features for f in folds]),
        np.concatenate([f.labels for f in folds]),
    ]
    first = Fold(*(one[:20_000] for one in several))
    ours = as_margins(first.outputs(model).numpy(), first.labels)
    apart = margins(boosters, bins.of(first.features)) - ours
    return {
        "pooled": records.auroc(scored, held.labels),
        "federated": score(records, model, held),
        "alone": float(np.mean([score(records, grown(job, [f]), held) for f in folds])),
        "same_trees": same_trees(boosters, model, first, bins.of(first.features)),
        "margins_differ": float(abs(apart).max()),
    }


def private(
    records: Records, size: Size, kind: str, choice: dict[str, Any], epsilon: float, seed: int
) -> float:
    """Return the AUROC of one arm under privacy."""
    folds, held = records.divided(seed)
    batch, privacy = float(np.mean([len(f) for f in folds])), shared(epsilon, size)
    if kind == "dp":
        model = {"kind": "trees", **{k: v for k, v in choice.items() if k != "rate"}}
        job = job_of(records, model, choice["rate"], choice["trees"], batch, privacy=privacy)
        return score(records, grown(job, folds), held)
    model = {"kind": "linear"} if kind == "linear" else {"kind": "mlp", "hidden": [32]}
    sampled = size.sampling, privacy
    job = job_of(records, model, choice["rate"], size.steps, size.sampling * batch, *sampled)
    torch.manual_seed(seed)
    network, trainers = model_of(job), []
    for name, fold in zip(job.roster, folds, strict=True):
        own, loss = plan(job, name), record_loss(job, {})
        random = cryptographic_generator()
        in_a_run = own.in_a_run() if own else None
        trainers.append(LocalTrainer(network, fold, job.training, in_a_run, random, loss))
    trained = Simulation(network, trainers, job.server, average=job.training.average)
    return score(records, trained.run(size.steps), held)


def figures(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over divisions and its standard error."""
    se = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"auroc": round(float(np.mean(values)), 4), "se": round(float(se), 4)}


def measured(records: Records, size: Size, divisions: int) -> dict[str, Any]:
    """Return one dataset's figures."""
    seeds = range(1, divisions + 1)
    exact = [without_privacy(records, size, seed) for seed in seeds]
    tree: dict[str, Any] = {
        arm: figures([one[arm] for one in exact]) for arm in ("pooled", "federated", "alone")
    }
    apart = figures([one["federated"] - one["pooled"] for one in exact])
    tree["difference"], tree["difference_se"] = apart["auroc"], apart["se"]
    tree["same_trees"] = float(np.mean([one["same_trees"] for one in exact]))
    tree["margins_differ"] = max(one["margins_differ"] for one in exact)
    rates = [{"rate": rate} for rate in size.rates]
    for epsilon in EPSILONS:
        for kind, choices in {"dp": PRIVATE_TREES, "linear": rates, "mlp": rates}.items():
            of: Callable[..., float] = partial(private, records, size, kind)
            tried = [of(choice, epsilon, TUNING) for choice in choices]
            best = choices[int(np.argmax(tried))]
            scores = [of(best, epsilon, seed) for seed in seeds]
            tree[f"{kind}_{epsilon}"] = figures(scores) | {"choice": best}
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="tables (trees_data.py)")
    parser.add_argument("--only", nargs="*", help="datasets to measure, or speed; default: all")
    parser.add_argument("--divisions", type=int, default=5)
    parser.add_argument("--records", type=int, default=1_000_000, help="made-up transactions")
    parser.add_argument("--trees", type=int, default=100, help="that the timed run grows")
    parser.add_argument("--quick", action="store_true", help="two divisions, 30,000 transactions")
    given = parser.parse_args()
    if given.quick:
        given.divisions, given.records, given.trees = 2, 30_000, 4
    torch.set_num_threads(1)
    datasets: dict[str, Callable[[], Records]] = {"breast_cancer": breast_cancer, "digits": digits}
    for path in given.data:
        datasets[path.name.partition(".")[0]] = partial(of_file, path)
    datasets["transactions"] = partial(made_up, given.records)
    tree: dict[str, Any] = {}
    for name, make in datasets.items():
        if given.only and name not in given.only:
            continue
        started, size = time.monotonic(), LARGE if name == "transactions" else Size()
        divisions = min(given.divisions, 2) if size is LARGE else given.divisions
        tree[name] = measured(make(), size, divisions)
        show(name, tree[name], divisions, time.monotonic() - started)
        save(tree, given.json)
    if not given.only or "speed" in given.only:
        tree["speed"] = speed(given.records, given.trees)
        console.print(tree["speed"])
        save(tree, given.json)


def save(tree: dict[str, Any], path: Path | None) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tree, indent=1))


def show(name: str, tree: dict[str, Any], divisions: int, seconds: float) -> None:
    """Print one dataset's figures."""
    table = Table("arm", "AUROC", "setting", title=f"{name}, {divisions} divisions", box=None)
    for arm, found in tree.items():
        if isinstance(found, dict):
            setting = " ".join(map(str, found.get("choice", {}).values()))
            table.add_row(arm, f"{found['auroc']:.3f} ({found['se']:.3f})", setting)
    console.print(table)
    console.print(
        f"federated - pooled {tree['difference']:+.4f} ({tree['difference_se']:.4f}), "
        f"{tree['same_trees']:.0%} of trees the same; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()

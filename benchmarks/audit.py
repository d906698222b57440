"""Measure how strong the audit's attacks are without protection and under each defence.

    python benchmarks/audit.py --json build/audit.json
    python benchmarks/audit.py --data FILE.csv.gz --smiles smiles --target p_np --json FILE

Molecules come from examples/solubility (fingerprints of 1,024 bits, classes low and not low
solubility) or from the table given by --data; images are scikit-learn's digits. Networks:
1024-512-2 (ReLU) for sparse recovery and imprint, 1024-64-2 for membership, two convolutions for
matching. Privacy is epsilon 8 at delta 1e-5 over an arm's run. In the arm "encrypted" the attacker
has what an aggregator holds, and the silos' key as well.

The JSON has these figures without protection, and the same ones under dp. and encrypted.:

    server.spear.{b4,b8,b16}_{exact,seconds}, server.fedavg_exact, server.imprint_exact,
    server.matching.{b1,b8}_{psnr,identified,seconds},
    membership.{lira,rmia,confidence}.{tpr_at_1pct,tpr_at_0.1pct,canaries,precision_at_0.1pct},
    participant.generator.{frechet,frechet_of_other_classes,frechet_of_class_mean,precision,nearer,
    nearer_low,seconds} (digits),
    memorisation.{drawn,drawn_of_others_at_most,exposure,readable,seconds} (SMILES, 3 silos),
    seconds

and key_recovery.{usual_share,usual_seconds,exact_share}. Under encryption, the figures of
membership, generator and memorisation are copied from the arm without protection, because the model
is released.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from blindsum.pipelines.audit import scores
from blindsum.pipelines.audit.attacks import generator, key_recovery, membership, shadows
from blindsum.pipelines.audit.attacks.closeness import class_mean, closeness, summary
from blindsum.pipelines.audit.attacks.gradient_matching import Effort, labels_from_bias, match
from blindsum.pipelines.audit.attacks.imprint import planted, recovered
from blindsum.pipelines.audit.attacks.memorisation import Reading, memorised
from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.pipelines.audit.attacks.sparse_recovery import recover
from blindsum.pipelines.audit.attacks.stacked import Stack
from blindsum.pipelines.audit.evidence import Defence
from blindsum.pipelines.audit.labelling import WHOLE, Classes
from blindsum.pipelines.audit.victim import update_of
from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.job.features_section import Ecfp
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.accounting import calibrate
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer

ARMS: tuple[Defence, ...] = ("none", "dp", "encrypted")
EPSILON, DELTA, RATE, STEPS, SILOS, MODELS = 8.0, 1e-5, 0.0745, 400, 3, 128
console = Console()


def plan(rate: float, steps: int) -> PrivacyPlan:
    sigma = calibrate(EPSILON, DELTA, rate, steps)
    return PrivacyPlan(
        epsilon=EPSILON,
        delta=DELTA,
        sampling_rate=rate,
        noise_multiplier=sigma,
        clip_norm=1.0,
        steps_per_round=1,
        rounds=steps,
        rounds_within_budget=steps,
        epsilon_planned=EPSILON,
    )


def molecules(given: argparse.Namespace) -> tuple[Fold, list[str]]:
    """Return distinct fingerprints with labels of two classes, and all SMILES."""
    if given.data:
        import pandas

        table = pandas.read_csv(given.data)[[given.smiles, given.target]].dropna()
        smiles, target = table[given.smiles].astype(str), table[given.target].to_numpy()
    else:
        folder = Path(__file__).parent.parent / "examples" / "solubility" / "data"
        whole = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
        smiles, target = whole["smiles"], np.array(whole["solubility"].to_pylist()) == "low"
    section = Ecfp(kind="ecfp", bits=1024)
    found = features_of(section).compute(pa.table({"smiles": smiles}))
    features, first = np.unique(dense(found.features), axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(len(first))
    labels = np.unique(target[found.usable], return_inverse=True)[1][first]
    whole_column = pa.table({"smiles": smiles})["smiles"]
    texts = whole_column.filter(pa.array(found.usable)).to_pylist()
    return Fold(features[order], labels[order].astype(np.int64)), texts


def network(hidden: int) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1024, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def exact(got: torch.Tensor | None, true: torch.Tensor) -> float:
    if got is None:
        return 0.0
    clean = (got - got.round()).abs().max(1).values < 1e-2
    rows = {row.tobytes() for row in (got[clean] > 0.5).numpy()}
    return float(np.mean([row.tobytes() in rows for row in (true > 0.5).numpy()]))


def server(data: Fold, arm: Defence) -> dict[str, Any]:
    """Measure sparse recovery, from gradients and from local steps, and the imprint layer."""
    own, model, figures = plan(RATE, STEPS), network(512), dict[str, Any]()
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    spear: dict[str, float] = {}
    for batch, victims in ((4, 6), (8, 6), (16, 4)):
        shares, seconds = [], []
        for v in range(victims):
            rows = slice(v * batch, (v + 1) * batch)
            update = update_of(model, features[rows], labels[rows], own, arm, SILOS)
            found = recover(
                update.gradients[0],
                update.gradients[1],
                batch,
                model[0],
                model[2],
                seconds=30 if arm == "none" else 4,
            )
            shares.append(exact(found.records, features[rows]))
            seconds.append(found.seconds)
        spear |= {
            f"b{batch}_exact": float(np.mean(shares)),
            f"b{batch}_seconds": float(np.mean(seconds)),
        }
    figures["spear"] = spear
    if arm == "none":
        figures["fedavg_exact"] = {
            f"{steps} steps": fedavg(model, features, labels, steps) for steps in (5, 20)
        }
    wide = network(1024)
    made = planted(wide, wide[0], features[len(features) // 2 :])
    update = update_of(made, features[:256], labels[:256], own, arm, SILOS)
    got = recovered(update.gradients[0], update.gradients[1])
    figures["imprint_exact"] = exact(got, features[:256])
    return figures


def fedavg(start: nn.Sequential, features: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Return the share of records recovered from four batches of eight.

    Each update is the sum of local steps on the batch's two halves in turn.
    """
    shares = []
    for v in range(4):
        model = network(512)
        model.load_state_dict(start.state_dict())
        x, y = features[8 * v : 8 * v + 8], labels[8 * v : 8 * v + 8]
        for step in range(steps):
            rows = slice(step % 2 * 4, step % 2 * 4 + 4)
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.sub_(g, alpha=0.1)
        with torch.no_grad():
            weight, bias = start[0].weight - model[0].weight, start[0].bias - model[0].bias
        shares.append(exact(recover(weight, bias, 8, start[0], start[2]).records, x))
    return float(np.mean(shares))


def convolutions(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def matching(arm: Defence, iterations: int) -> dict[str, float]:
    """Measure gradient matching on digits through two convolutions."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    model = convolutions(0)
    own, figures = plan(64 / 1400, 30 * 22), dict[str, float]()
    for batch, victims, effort in ((1, 8, 1), (8, 3, 2)):
        started, got = time.perf_counter(), []
        # An attacker who expects noise gives smoothness more weight.
        variation = 0.01 if arm == "none" else 0.3
        spent = Effort(
            iterations=iterations * effort, restarts=2, variation=variation, shape=(1, 8, 8)
        )
        for v in range(victims):
            rows = slice(v * batch, (v + 1) * batch)
            x, y = torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])
            update = update_of(model, x, y, own, arm, SILOS)
            read = labels_from_bias(model, update.gradients[-1], batch, 64, spent, Classes(10))
            found, _ = match(model, update.gradients, read, 64, spent)
            true = images[rows].astype(np.float64)
            guess = np.repeat(images.mean(0)[None].astype(np.float64), batch, axis=0)
            got.append(scores.paired(found.numpy().astype(np.float64), true, guess))
        obtained, true = np.concatenate(got), images[: batch * victims].astype(np.float64)
        named = scores.identified(obtained, true, images[:1400].astype(np.float64))
        figures |= {
            f"b{batch}_psnr": scores.psnr(obtained, true, 1.0),
            f"b{batch}_identified": named / len(true),
            f"b{batch}_seconds": (time.perf_counter() - started) / victims,
        }
    return figures


def of_members(data: Fold, arm: Defence, rate: float) -> dict[str, Any]:
    """Measure membership inference with MODELS shadow models."""
    started, held = time.perf_counter(), len(data.labels) // 6
    x, y = data.features[:-held], data.labels[:-held]
    canaries = np.arange(len(y)) < max(20, len(y) // 20)
    labels = np.where(canaries, 1 - y, y)
    members = shadows.memberships(len(y), MODELS)
    job = Job.model_validate(JOB)
    private = arm == "dp"
    training = job.training.model_copy(
        update={"learning_rate": rate, "expected_batch_size": RATE * len(y) / 2}
    )
    recipe = Recipe(training, job.server, STEPS, plan(RATE, STEPS) if private else None)
    said, of_others = [], []
    for first in range(0, MODELS, 16):
        stack = Stack(job, 1024, 16)
        stack.train(
            torch.from_numpy(x),
            torch.from_numpy(labels),
            torch.from_numpy(members[first : first + 16]),
            recipe,
            torch.Generator().manual_seed(first),
        )
        said.append(stack.logits(torch.from_numpy(x)).double().numpy())
        of_others.append(stack.logits(torch.from_numpy(data.features[-held:])).double().numpy())
    logits, others = np.concatenate(said), np.concatenate(of_others)
    read, views = Classes(2), (WHOLE,)
    own_view = read.observe(logits, labels, views)
    population = read.observe(others, data.labels[-held:], views).losses[0]
    seen = membership.Shadows(own_view.statistics[0], own_view.losses[0], members, population)
    figures: dict[str, Any] = {"accuracy": float((others.argmax(2) == data.labels[-held:]).mean())}
    for name, values in membership.scores(seen).items():
        own, inside = values[:, ~canaries], members[:, ~canaries]
        few = membership.rates(own, inside, 0.001)
        figures[name] = {
            "tpr_at_1pct": membership.rates(own, inside, 0.01).value,
            "tpr_at_0.1pct": few.value,
            "canaries": membership.rates(values[:, canaries], members[:, canaries], 0.01).value,
            "precision_at_0.1pct": membership.precision(few, 0.001).value,
        }
    return figures | {"seconds": time.perf_counter() - started}


def generated(arm: Defence, federations: int = 4) -> dict[str, float]:
    """Measure Hitaj et al.'s participant on digits: only the other silo has classes 0 to 4.

    The participant generates threes.
    """
    started = time.perf_counter()
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int64)
    rounds, steps, wanted = 60, 19, 3
    runs, prior, mean = [], [], []
    for seed in range(federations):
        order = np.random.default_rng(seed).permutation(len(labels))
        *sets, known, scored = np.split(order, [int(s * len(labels)) for s in generator.SHARES])
        a, b, public, held_out = (
            images[t][labels[t] == wanted].astype(np.float64) for t in (*sets, known, scored)
        )
        others = known[labels[known] > 4]
        participant = generator.Participant(
            Fold(images[others], labels[others]), Classes(10), wanted, 0.0, 1.0, rounds=rounds
        )
        pair = []
        for part, mine, twin in zip(sets, (a, b), (b, a), strict=True):
            own = part[labels[part] < 5]
            rate = 32 / len(own)
            training = TrainingSection(
                rounds=rounds,
                local_steps=steps,
                sampling_rate=rate,
                expected_batch_size=32.0,
                learning_rate=0.2,
            )
            private = plan(rate, rounds * steps) if arm == "dp" else None
            model = convolutions(seed)
            trainer = LocalTrainer(
                model, Fold(images[own], labels[own]), training, private, cryptographic_generator()
            )
            made = generator.made(model, trainer, participant, ServerSection(), seed)
            pair.append(closeness(made, mine, twin, held_out))
        runs.append(pair)
        prior.append(closeness(images[others].astype(np.float64), a, b, held_out))
        drawn = class_mean(public, generator.MADE, 0.0, 1.0, binary=False)
        mean.append(closeness(drawn, a, b, held_out))
    found = summary(np.array(runs, dtype=object), prior, generator.MOST)
    frechet, nearer = found["Frechet distance"], found["nearer to training records"]
    return {
        "frechet": frechet.value,
        "frechet_of_other_classes": frechet.floor or 0.0,
        "frechet_of_class_mean": float(np.mean([one.frechet for one in mean])),
        "precision": found["precision"].value,
        "nearer": nearer.value,
        "nearer_low": nearer.low or 0.0,
        "seconds": time.perf_counter() - started,
    }


def remembered(texts: list[str], arm: Defence) -> dict[str, float]:
    """Measure what a language model trained on half of the molecules reveals about them."""
    started = time.perf_counter()
    private = plan(RATE, STEPS) if arm == "dp" else None
    memory = memorised(texts, Job.model_validate(JOB), private, Reading(2000, 8000))
    if memory is None:
        return {}
    drawn, exposure = memory.figures["training molecules drawn"], memory.figures["exposure (bits)"]
    return {
        "drawn": drawn.value,
        "drawn_of_others_at_most": drawn.floor or 0.0,
        "exposure": exposure.value,
        "readable": memory.readable,
        "seconds": time.perf_counter() - started,
    }


JOB = {
    "name": "audit",
    "seed": 1,
    "silos": [{"name": n, "data": n} for n in ("a", "b", "c")],
    "data": {
        "features": {"kind": "ecfp", "bits": 1024},
        "target": {"column": "y", "classes": [0, 1]},
        "folds": {"kind": "column"},
    },
    "model": {"kind": "mlp", "hidden": [64], "activation": "relu"},
    "training": {
        "rounds": STEPS,
        "local_steps": 1,
        "sampling_rate": RATE,
        "expected_batch_size": 60,
        "learning_rate": 0.5,
    },
    "privacy": {"noise": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--data", type=Path, help="a CSV table of molecules")
    parser.add_argument("--smiles", default="smiles", help="the table's column of SMILES")
    parser.add_argument("--target", default="target", help="the table's column of two classes")
    parser.add_argument(
        "--iterations", type=int, default=1000, help="iterations of gradient matching"
    )
    given = parser.parse_args()
    torch.set_num_threads(2)
    (data, texts), tree = molecules(given), dict[str, Any](arms={})
    for arm in ARMS:
        started = time.perf_counter()
        figures = {"server": server(data, arm) | {"matching": matching(arm, given.iterations)}}
        if arm != "encrypted":
            figures["membership"] = of_members(data, arm, 0.5)
            figures["participant"] = {"generator": generated(arm)}
            figures["memorisation"] = remembered(texts, arm)
        tree["arms"][arm] = figures | {"seconds": time.perf_counter() - started}
        console.print(f"{arm}: {tree['arms'][arm]['seconds']:.0f} s")
    for open_to_all in ("membership", "participant", "memorisation"):
        tree["arms"]["encrypted"][open_to_all] = tree["arms"]["none"][open_to_all]
    usual, ours = key_recovery.usual(SILOS), key_recovery.exact(SILOS)
    tree["key_recovery"] = {
        "usual_share": usual.share,
        "usual_seconds": usual.seconds,
        "exact_share": ours.share,
    }
    table = Table(title="attacks under each defence", box=None)
    for heading in ("figure", *ARMS):
        table.add_column(heading)
    flat = {arm: flattened(tree["arms"][arm]) for arm in ARMS}
    for key in flat["none"]:
        table.add_row(key, *(f"{flat[arm][key]:.4g}" if key in flat[arm] else "" for arm in ARMS))
    console.print(table)
    console.print(f"key recovery: {tree['key_recovery']}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        arms = tree.pop("arms")
        given.json.write_text(json.dumps({**arms.pop("none"), **arms, **tree}, indent=1))


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        found |= flattened(value, name) if isinstance(value, dict) else {name: float(value)}
    return found


if __name__ == "__main__":
    main()

"""A pilot of a pharma consortium: pooled, local, federated, and with privacy and encryption.

    python benchmarks/pilot.py --data tox21.csv.gz --json build/pilot.json
    python benchmarks/pilot.py --json build/pilot.json           # on examples/assays, small

Twelve assays with missing labels, ECFP with 2,048 bits, a network 2048-512-12 (1.06 million
parameters). All molecules of a scaffold belong to one silo and one fold; a fifth of the scaffolds,
chosen by HMAC, is held out. The figures are the mean AUROC over assays on all silos' held-out
records together. All arms have the same model settings, and several seeds each.

JSON: arms.<name>.auroc_mean, auroc_sd (over seeds), seconds_per_round. The arms in one process are
pooled, local, federated_sgd (plain averaging), federated (server momentum) and federated_dp_1, _3,
_8. With kernel features and small networks, whose settings were chosen on other public tables (by
benchmarks/representations.py), they are kernel_local, kernel_federated and kernel_dp_1, _3, _8.
Real runs on Ray, with one seed, are federated_plain and federated_encrypted (encryption.scheme
none and ckks, no privacy), with their phases, and federated_dp_plain and federated_dp_encrypted
(the same with DP-SGD in every silo, and 12 bits a value). Also
encryption.{auroc_difference,share_of_round,share_of_round_under_dp}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from rdkit import Chem, rdBase
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import nn

from blindsum.pipelines.comparison.baseline import Member, member_of, together, trained
from blindsum.pipelines.run.listeners import Listener
from blindsum.pipelines.run.train import train
from blindsum.platform.data.split import fraction, scaffold_key
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import read_released
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import model_of
from blindsum.platform.training.simulation import Simulation

Overrides = tuple[str, ...]
SILOS = ("alder", "birch", "cedar")
DELTA = 1e-4
rdBase.DisableLog("rdApp.*")
console = Console()


def dealt(given: argparse.Namespace, folder: Path) -> list[str]:
    """Divide the table's molecules among the silos by scaffold; return the assays."""
    table = pandas.read_csv(given.data)
    tasks = [c for c in table.columns if c not in ("mol_id", given.smiles)]
    readable = [Chem.MolFromSmiles(s) is not None for s in table[given.smiles]]
    table = table[np.array(readable) & table[tasks].notna().any(axis=1)]
    where = np.array([int(3 * fraction("silo", scaffold_key(s))) for s in table[given.smiles]])
    for i, silo in enumerate(SILOS):
        own = table[where == i].rename(columns={given.smiles: "smiles"})[["smiles", *tasks]]
        pq.write_table(pa.Table.from_pandas(own, preserve_index=False), folder / f"{silo}.parquet")
    return tasks


def job_of(folder: Path, tasks: Sequence[str], *overrides: str) -> JobFile:
    """Return the pilot's job. Learning rates, with and without privacy, were chosen by hand on
    another split."""
    content = {
        "name": "pilot",
        "seed": 1,
        "silos": [{"name": s, "data": f"{s}.parquet", "state": str(folder / s)} for s in SILOS],
        "data": {
            "features": {"kind": "ecfp", "smiles": "smiles", "bits": 2048},
            "tasks": {name: {} for name in tasks},
            "folds": {"kind": "scaffold", "salt": "pilot", "test_fraction": 0.2},
        },
        "model": {"kind": "mlp", "hidden": [512], "activation": "relu"},
        "training": {
            "rounds": 40,
            "local_steps": 10,
            "sampling_rate": 0.05,
            "expected_batch_size": 100,
            "learning_rate": 0.1,
            "average": {"kind": "none"},
        },
        "server": {"optimizer": "momentum"},
        "privacy": {"noise": "none"},
        "deadlines": {"start_s": 600},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path, overrides)


PRIVATE = (
    "training.rounds=200",
    "training.local_steps=1",
    "training.sampling_rate=0.1",
    "training.expected_batch_size=200",
    "training.learning_rate=2",
    "server={optimizer: momentum, learning_rate: 0.3}",
)


HIDDEN = "model={kind: mlp, hidden: [32], activation: tanh}"


def kernel(rate: float, rounds: int, epsilon: int | None = None, model: str = HIDDEN) -> Overrides:
    """Return what makes the job one of kernel features and a small model."""
    budget = f"noise: shared, epsilon: {epsilon}, delta: {DELTA}" if epsilon else "noise: none"
    return (
        "data.features={kind: kernel, smiles: smiles, dimensions: 128}",
        model,
        f"training.rounds={rounds}",
        "training.local_steps=1",
        "training.sampling_rate=0.5",
        "training.expected_batch_size=1000",
        f"training.learning_rate={rate}",
        "server={optimizer: momentum, learning_rate: 0.3}",
        f"privacy={{{budget}}}",
    )


KERNEL: dict[str, Overrides] = {
    "kernel_local": kernel(0.3, 60),
    "kernel_federated": kernel(1, 120),
    "kernel_dp_8": kernel(2, 200, 8),
    "kernel_dp_3": kernel(4, 60, 3, "model={kind: linear}"),
    "kernel_dp_1": kernel(0.5, 120, 1),
}
"""Under privacy as benchmarks/representations.py chose them on ames and hiv, without on ames."""


def federated(job: Job, members: Sequence[Member]) -> nn.Module:
    """Train as silos do, in one process and without encryption."""
    model, trainers = model_of(job, private=False), []
    for member in members:
        own = plan(job, member.name)
        own = own.in_a_run() if own else None
        random = cryptographic_generator() if own else seeded_generator(job.seed, member.name)
        loss = record_loss(job, {})
        trainers.append(LocalTrainer(model, member.data.train, job.training, own, random, loss))
    federation = Simulation(model, trainers, job.server, average=job.training.average)
    return federation.run(job.training.rounds)


def auroc(model: nn.Module, members: Sequence[Member]) -> float:
    """Return the mean AUROC over assays, on all held-out records together."""
    y = np.concatenate([m.data.test.labels for m in members])[:, 0]
    said = torch.cat([m.data.test.outputs(model) for m in members]).numpy()
    known = ~np.isnan(y)
    return float(np.mean([roc_auc_score(y[k, i], said[k, i]) for i, k in enumerate(known.T)]))


def pooled(job: Job, members: Sequence[Member]) -> nn.Module:
    batch = job.training.expected_batch_size * len(members)
    larger = job.training.model_copy(update={"expected_batch_size": batch})
    return trained(
        job.model_copy(update={"training": larger}),
        together(job, members),
        None,
        "pooled",
        lambda: None,
    )


DP_ROUNDS = (
    "privacy={noise: local, epsilon: 8, delta: 1.0e-4}",
    "encryption.bits=12",
    "training.rounds=20",
)


def real(
    folder: Path, tasks: Sequence[str], scheme: str, members: Sequence[Member], *overrides: str
) -> dict[str, Any]:
    """Run the job on Ray; return its model's AUROC and its rounds' seconds by phase."""
    job_file = job_of(folder, tasks, f"encryption.scheme={scheme}", *overrides)
    run = train(job_file, None, Listener())
    if run.saved is None:
        raise RuntimeError("the run left no model")
    model = read_released(run.saved.path).model
    later = run.reports[len(run.reports) // 4 :]  # the first rounds include start-up
    phases = {k: float(np.median([r.phases[k] for r in later])) for k in later[0].phases}
    return {
        "auroc_mean": auroc(model, members),
        "auroc_sd": 0.0,
        "model": run.reports[-1].model_digest,
        "phases": phases,
        "seconds_per_round": float(np.median([r.seconds for r in later])),
        "megabytes_per_round": float(np.median([r.up_bytes + r.down_bytes for r in later])) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="a wide CSV table of assays")
    parser.add_argument("--smiles", default="smiles")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", action="append", help="of those in one process; default: all")
    parser.add_argument("--no-ray", action="store_true", help="omit the real runs on Ray")
    given = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.data:
            tasks = dealt(given, folder)
        else:
            tasks = ["soluble"]
            source = Path(__file__).parent.parent / "examples" / "assays" / "data"
            for silo in SILOS:
                (folder / f"{silo}.parquet").write_bytes((source / f"{silo}.parquet").read_bytes())
        arms = simulated(folder, tasks, given.seeds, given.arm)
        tree: dict[str, Any] = {"arms": arms}
        if not given.no_ray:
            members = [member_of(job_of(folder, tasks), silo) for silo in SILOS]
            for name, scheme in (("federated_plain", "none"), ("federated_encrypted", "ckks")):
                arms[name] = real(folder, tasks, scheme, members)
                console.print(name, arms[name])
            for name, scheme in (
                ("federated_dp_plain", "none"),
                ("federated_dp_encrypted", "ckks"),
            ):
                arms[name] = real(folder, tasks, scheme, members, *DP_ROUNDS)
                console.print(name, arms[name])
            encrypted = arms["federated_encrypted"]
            apart = encrypted["auroc_mean"] - arms["federated_plain"]["auroc_mean"]
            rest = encrypted["phases"]["train"] + encrypted["phases"]["apply"]
            tree["encryption"] = {
                "auroc_difference": apart,
                "same_model": encrypted["model"] == arms["federated_plain"]["model"],
                "share_of_round": 1 - rest / encrypted["seconds_per_round"],
                "share_of_round_against_plain": 1
                - arms["federated_plain"]["seconds_per_round"] / encrypted["seconds_per_round"],
            }
            plain, under_dp = arms["federated_dp_plain"], arms["federated_dp_encrypted"]
            tree["encryption"]["share_of_round_under_dp"] = (
                1 - plain["seconds_per_round"] / under_dp["seconds_per_round"]
            )
            console.print(tree["encryption"])
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


def simulated(
    folder: Path, tasks: Sequence[str], seeds: int, only: Sequence[str] | None
) -> dict[str, Any]:
    """Train the arms in one process, with several seeds; return their figures."""
    members = [member_of(job_of(folder, tasks), silo) for silo in SILOS]
    noised = {
        f"federated_dp_{e}": (*PRIVATE, f"privacy={{noise: shared, epsilon: {e}, delta: {DELTA}}}")
        for e in (8, 3, 1)
    }
    told: dict[str, Overrides] = {
        "pooled": (),
        "local": (),
        "federated_sgd": ("server.optimizer=sgd",),
        "federated": (),
        **noised,
        **KERNEL,
    }
    features = KERNEL["kernel_local"][0]
    of_kernel = [member_of(job_of(folder, tasks, features), silo) for silo in SILOS]
    arms: dict[str, Any] = {}
    for name, overrides in told.items():
        if only and name not in only:
            continue
        scores, started = [], time.perf_counter()
        trained_on = of_kernel if name in KERNEL else members
        for seed in range(1, seeds + 1):
            job = job_of(folder, tasks, *overrides, f"seed={seed}").job
            if name == "pooled":
                scores.append(auroc(pooled(job, trained_on), trained_on))
            elif name.endswith("local"):
                alone = [trained(job, m, None, m.name, lambda: None) for m in trained_on]
                scores.append(float(np.mean([auroc(model, trained_on) for model in alone])))
            else:
                scores.append(auroc(federated(job, trained_on), trained_on))
        seconds = (time.perf_counter() - started) / seeds / job.training.rounds
        arms[name] = {
            "auroc_mean": float(np.mean(scores)),
            "seconds_per_round": seconds,
            "auroc_sd": float(np.std(scores, ddof=1)) if seeds > 1 else 0.0,
        }
        console.print(name, arms[name])
    return arms


if __name__ == "__main__":
    main()

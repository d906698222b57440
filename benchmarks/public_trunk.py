"""Measure what a trunk from public assays is worth to silos that train under privacy.

    python benchmarks/public_trunk.py --data tox21.csv.gz --json build/public_trunk.json

Tox21's molecules are divided by scaffold, anew for each seed: half are public, and a sixth belongs
to each of three silos. The public half has labels of the seven assays of nuclear receptors, the
silos have labels of the five stress-response assays; a fifth of the silos' scaffolds is held out.
ECFP with 2,048 bits, a network 2048-64-5, 60 rounds of one step, shared noise, delta 1e-4.

    nothing   the whole network from random weights
    lora      the public trunk with adapters of rank 4, and the head
    frozen    the public trunk as it is: only the head is trained

The trunk is trained on the pooled public half without privacy, as `blindsum baseline pooled
--publish-weights` does. Learning rates are chosen for each arm and epsilon on a split of their own,
which is not charged because these records are public.

JSON: {epsilon}.{arm}.{mean,se,gain,gain_se,learning_rate,trained}; gain is over `nothing`, paired.
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
from pilot import auroc, federated, pooled
from rdkit import Chem, rdBase
from rich.console import Console
from rich.table import Table

from blindsum.pipelines.comparison.baseline import Member, member_of
from blindsum.pipelines.comparison.public_trunk import Trunk, write_trunk
from blindsum.pipelines.run.traffic import parameter_count
from blindsum.platform.data.split import fraction, scaffold_key
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.job.paths import files_from

SILOS, PUBLIC = ("alder", "birch", "cedar"), ("first", "second")
ARMS, EPSILONS = ("nothing", "lora", "frozen"), (1.0, 3.0)
RATES, HIDDEN, ROUNDS, DELTA = (1.0, 4.0, 16.0), 64, 60, 1e-4
SEEDS, TUNING = 3, 0
rdBase.DisableLog("rdApp.*")
console = Console()


def dealt(table: pandas.DataFrame, seed: int, folder: Path) -> tuple[list[str], list[str]]:
    """Write the tables of the public half and of the silos; return both groups' assays."""
    assays = [name for name in table.columns if name[:3] in ("NR-", "SR-")]
    known, asked = ([a for a in assays if a.startswith(kind)] for kind in ("NR-", "SR-"))
    where = np.array([fraction(f"half-{seed}", one) for one in table["scaffold"]])
    owners = np.array([fraction(f"silo-{seed}", one) for one in table["scaffold"]])
    folder.mkdir()
    for names, labels, chosen in (
        (PUBLIC, known, where < 0.5),
        (SILOS, asked, where >= 0.5),
    ):
        for i, name in enumerate(names):
            own = chosen & ((owners * len(names)).astype(int) == i)
            rows = table[own & table[labels].notna().any(axis=1).to_numpy()][["smiles", *labels]]
            whole = pa.Table.from_pandas(rows, preserve_index=False)
            pq.write_table(whole, folder / f"{name}.parquet")
    return known, asked


def job_of(folder: Path, names: Sequence[str], tasks: Sequence[str], **changes: Any) -> JobFile:
    content = {
        "name": "public-trunk",
        "seed": 1,
        "silos": [{"name": s, "data": f"{s}.parquet", "state": str(folder / s)} for s in names],
        "data": {
            "features": {"kind": "ecfp", "bits": 2048},
            "tasks": {name: {} for name in tasks},
            "folds": {"kind": "scaffold", "salt": folder.name, "test_fraction": 0.2},
        },
        "model": {"kind": "mlp", "hidden": [HIDDEN], "activation": "tanh"},
        "training": {
            "rounds": 100,
            "local_steps": 1,
            "sampling_rate": 0.2,
            "expected_batch_size": 200,
            "learning_rate": 1.0,
        },
        "privacy": {"noise": "none"},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return load_job(path, [])


def trunk_of(folder: Path, known: Sequence[str]) -> Trunk:
    """Train the public half's network and write its trunk."""
    training = {
        "rounds": 40,
        "local_steps": 10,
        "sampling_rate": 0.05,
        "expected_batch_size": 75,
        "learning_rate": 0.1,
    }
    job_file = job_of(folder, PUBLIC, known, training=training, server={"optimizer": "momentum"})
    members = [member_of(job_file, name) for name in PUBLIC]
    model = pooled(job_file.job, members)
    console.print(f"{folder.name}: public assays' AUROC {auroc(model, members):.3f}")
    return write_trunk(job_file.job, model, folder / f"trunk-{folder.name}.safetensors")


def model_section(arm: str, trunk: Trunk) -> dict[str, Any]:
    section: dict[str, Any] = {"kind": "mlp", "hidden": [HIDDEN], "activation": "tanh"}
    if arm == "nothing":
        return section
    only = [*trunk.only]
    section["weights"] = {"file": trunk.path.name, "sha256": trunk.sha256, "only": only}
    if arm == "frozen":
        section["freeze"] = [*only]  # a copy: job files have no aliases
    if arm == "lora":
        section["lora"] = {"rank": 4, "alpha": 4, "targets": ["0"]}
    return section


class Split:
    """One division of the molecules, with its trunk and the silos' records."""

    def __init__(self, table: pandas.DataFrame, seed: int, folder: Path) -> None:
        self.folder, self.seed = folder / f"split{seed}", seed
        known, self.asked = dealt(table, seed, self.folder)
        files_from(self.folder)
        self.trunk = trunk_of(self.folder, known)
        plain = job_of(self.folder, SILOS, self.asked)
        self.members: list[Member] = [member_of(plain, name) for name in SILOS]

    def score(self, arm: str, epsilon: float, rate: float) -> tuple[float, int]:
        """Train one arm; return its mean AUROC and the number of trained parameters."""
        batch = 0.2 * float(np.mean([len(m.data.train) for m in self.members]))
        training = {
            "rounds": ROUNDS,
            "local_steps": 1,
            "sampling_rate": 0.2,
            "expected_batch_size": round(batch),
            "learning_rate": rate,
        }
        job = job_of(
            self.folder,
            SILOS,
            self.asked,
            seed=self.seed,
            model=model_section(arm, self.trunk),
            training=training,
            privacy={"noise": "shared", "epsilon": epsilon, "delta": DELTA},
        ).job
        return auroc(federated(job, self.members), self.members), parameter_count(job) or 0


def measured(table: pandas.DataFrame, folder: Path, seeds: int) -> dict[str, Any]:
    tuning, tree = Split(table, TUNING, folder), dict[str, Any]()
    rates = {}
    for epsilon in EPSILONS:
        for arm in ARMS:
            found = [tuning.score(arm, epsilon, rate)[0] for rate in RATES]
            rates[epsilon, arm] = RATES[int(np.argmax(found))]
            console.print(
                f"epsilon {epsilon:g}, {arm}: {rates[epsilon, arm]:g}", np.round(found, 3)
            )
    splits = [Split(table, seed, folder) for seed in range(1, seeds + 1)]
    for epsilon in EPSILONS:
        scores = {}
        for arm in ARMS:
            rate = rates[epsilon, arm]
            found = [split.score(arm, epsilon, rate) for split in splits]
            scores[arm] = np.array([one for one, _ in found])
            gain = scores[arm] - scores["nothing"]
            tree.setdefault(f"{epsilon:g}", {})[arm] = {
                "mean": float(scores[arm].mean()),
                "se": error(scores[arm]),
                "gain": float(gain.mean()),
                "gain_se": error(gain),
                "learning_rate": rate,
                "trained": found[0][1],
            }
            console.print(epsilon, arm, tree[f"{epsilon:g}"][arm])
    return tree


def error(values: np.ndarray) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Tox21 as a CSV")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, table = time.monotonic(), pandas.read_csv(given.data)
    table = table[[Chem.MolFromSmiles(s) is not None for s in table["smiles"]]]
    table["scaffold"] = [scaffold_key(s) for s in table["smiles"]]
    with tempfile.TemporaryDirectory() as temporary:
        tree = measured(table, Path(temporary), given.seeds)
    shown = Table(title="mean AUROC (standard error); gain over nothing", box=None)
    for heading in ("arm", "trained", *(f"epsilon {e}" for e in tree)):
        shown.add_column(heading)
    for arm in ARMS:
        cells = [tree[e][arm] for e in tree]
        told = [
            f"{c['mean']:.3f} ({c['se']:.3f}); {c['gain']:+.3f} ({c['gain_se']:.3f})" for c in cells
        ]
        shown.add_row(arm, f"{cells[0]['trained']:,}", *told)
    console.print(shown)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

"""Measure what averaging the rounds' models does to the released model's held-out figure.

    python benchmarks/averaging.py --json build/averaging.json
    python benchmarks/averaging.py --data FILE.csv.gz --smiles smiles --target logD74 --json FILE

The shipped examples with their own settings, or a table of molecules with one regression task, in
three silos by scaffold: descriptors and ECFP, with the settings of the solubility and the assays
example. Trainer, plan, noise, integers (under shared noise) and server optimizer are the product's
own (`blindsum.platform.training.simulation`); nothing is encrypted, and nothing charged. All rules
see the same rounds of the same runs; `none` is the last round's model. Each seed draws other
initial weights and other noise. Figures are the product's main figures (accuracy, mean AUROC, mean
R2) over all silos' held-out records, and exact.

    mean, sd      of the released figure over seeds
    jump          greatest difference between neighbouring rounds in the last fifth of a run,
                  mean over seeds
    worst_jump    the same from round 2 on, greatest over seeds (round 1 leaves random weights)

JSON: {dataset, figure}.{rule}.{mean,sd,se,minus_none,minus_none_se,jump,worst_jump}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import torch
import yaml
from pyarrow import parquet as pq
from pydantic import TypeAdapter
from rdkit import Chem
from rich.console import Console
from rich.table import Table
from utility import NoisedSums

from blindsum.pipelines.comparison.baseline import member_of
from blindsum.platform.data.member import Member
from blindsum.platform.data.split import fraction, scaffold_key
from blindsum.platform.evaluation.figures import TaskFigures
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.job.average_section import Average
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.job.privacy_section import NoNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.average import averaged, of_model, showing
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import model_of
from blindsum.platform.training.simulation import Combine, Simulation, mean_update

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHIPPED, SILOS = ("solubility", "diagnosis", "fraud", "assays"), ("alder", "birch", "cedar")
RULES = {
    "none": {"kind": "none"},
    **{f"exponential {d:g}": {"kind": "exponential", "decay": d} for d in (0.8, 0.9, 0.95)},
    **{f"polynomial {eta:g}": {"kind": "polynomial", "eta": eta} for eta in (3.0, 8.0)},
}
console = Console()


@dataclass(frozen=True)
class Setting:
    """One run of a job with a seed."""

    path: Path
    overrides: tuple[str, ...]
    seed: int


@lru_cache(maxsize=2)
def members(path: Path, overrides: tuple[str, ...]) -> tuple[JobFile, list[Member]]:
    job_file = load_job(path, overrides)
    return job_file, [member_of(job_file, name) for name in job_file.job.roster]


def curves(setting: Setting) -> dict[str, np.ndarray]:
    """Run the job's rounds once; return the figures after each round, each [rules, rounds]."""
    torch.set_num_threads(1)
    job_file, owners = members(setting.path, setting.overrides)
    job = job_file.job.model_copy(update={"seed": setting.seed})
    random = cryptographic_generator() if job.private else seeded_generator(job.seed)
    models = [model_of(job, own=len(one.own)) for one in owners]
    plans = [plan(job, one.name) for one in owners]
    trainers = [
        LocalTrainer(model, one.data.train, job.training, of, random, record_loss(job, one.own))
        for model, one, of in zip(models, owners, plans, strict=True)
    ]
    combine: Combine = mean_update
    if plans[0] and plans[0].share is not None:
        combine = NoisedSums(plans[0], job.training.expected_batch_size, len(owners), random)
    whole = model_of(job)  # without private heads: only shared tasks are counted
    federation = Simulation(whole, trainers, job.server, combine)
    rules = [TypeAdapter(Average).validate_python(rule) for rule in RULES.values()]
    averages = [of_model(whole) for _ in rules]
    found: dict[str, np.ndarray] = {}
    for round in range(1, job.training.rounds + 1):
        federation.round()
        averages = [
            averaged(rule, before, whole, round)
            for rule, before in zip(rules, averages, strict=True)
        ]
        for i, average in enumerate(averages):
            with showing(whole, average):
                for name, value in figures(job, whole, owners).items():
                    empty = np.empty((len(rules), job.training.rounds))
                    found.setdefault(name, empty)[i, round - 1] = value
    return found


def figures(job: Job, model: torch.nn.Module, owners: list[Member]) -> dict[str, float]:
    """Return the model's main figures on all silos' held-out records."""
    exact = job.model_copy(update={"privacy": NoNoise(noise="none")})
    countings = [Counting(exact, None, one.data, np.random.default_rng()) for one in owners]
    last = job.training.rounds
    counts = sum(one.counts(model, last, Tally(), job.roster) for one in countings)
    held_out = countings[0].summarise(counts, last, 2**62, job.roster).held_out
    if held_out is None:
        raise ValueError("nothing was evaluated")
    found = {held_out.score.name: held_out.score.value}
    if isinstance(held_out, TaskFigures) and held_out.regression_tasks:
        found["mean R2"] = held_out.r2
    return found


def summary(found: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the figures by rule from curves [seeds, rules, rounds]."""
    seeds, _, rounds = found.shape
    late = rounds - max(2, rounds // 5)
    tree = {}
    for i, rule in enumerate(RULES):
        last, apart = found[:, i, -1], found[:, i, -1] - found[:, 0, -1]
        steps = np.abs(np.diff(found[:, i], axis=1))
        row = {
            "mean": last.mean(),
            "sd": last.std(ddof=1),
            "se": last.std(ddof=1) / np.sqrt(seeds),
            "minus_none": apart.mean(),
            "minus_none_se": apart.std(ddof=1) / np.sqrt(seeds),
            "jump": steps[:, late - 1 :].max(axis=1).mean(),
            "worst_jump": steps[:, 1:].max(),
        }
        tree[rule] = {name: round(float(value), 4) for name, value in row.items()}
    return tree


def table_jobs(folder: Path, given: argparse.Namespace) -> dict[str, Path]:
    """Deal the table's molecules to three silos by scaffold; return the job files."""
    table = pandas.read_csv(given.data)[[given.smiles, given.target]].dropna()
    table.columns = ["smiles", "y"]
    table = table[[Chem.MolFromSmiles(s) is not None for s in table["smiles"]]]
    where = np.array([int(3 * fraction("silo", scaffold_key(s))) for s in table["smiles"]])
    for i, silo in enumerate(SILOS):
        own = pa.Table.from_pandas(table[where == i], preserve_index=False)
        pq.write_table(own, folder / f"{silo}.parquet")
    found = {}
    for kind, like in (("descriptors", "solubility"), ("ecfp", "assays")):
        job = yaml.safe_load((EXAMPLES / like / "job.yaml").read_text())
        job["silos"] = [
            {"name": s, "data": f"{s}.parquet", "state": str(folder / s)} for s in SILOS
        ]
        y = table["y"]
        scaling = {"center": round(float(y.mean()), 1), "scale": round(float(y.std()), 1)}
        job["data"].pop("target", None)
        job["data"]["tasks"] = {"y": {"kind": "regression", **scaling}}
        expected = job["training"]["sampling_rate"] * 0.8 * len(table) / len(SILOS)
        job["training"]["expected_batch_size"] = round(expected, -1)
        found[f"table, {kind}"] = folder / f"{kind}.yaml"
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(job))
    return found


def show(tree: dict[str, Any]) -> None:
    for dataset, by_rule in tree.items():
        table = Table(title=dataset, box=None)
        for heading in ("average", "figure", "sd", "minus none", "jump", "worst jump"):
            table.add_column(heading)
        for rule, f in by_rule.items():
            apart = f"{f['minus_none']:+.3f} ({f['minus_none_se']:.3f})"
            cells = (f"{f['mean']:.3f}", f"{f['sd']:.3f}", apart)
            table.add_row(rule, *cells, f"{f['jump']:.3f}", f"{f['worst_jump']:.3f}")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="a CSV table of molecules with a number each")
    parser.add_argument("--smiles", default="smiles")
    parser.add_argument("--target", default="logD74")
    parser.add_argument("--only", nargs="+", help="only these datasets")
    parser.add_argument("--set", action="append", default=[], help="a setting, as for a run")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jobs = {name: EXAMPLES / name / "job.yaml" for name in SHIPPED}
        if given.data:
            jobs = table_jobs(Path(folder), given)
        names = [name for name in jobs if not given.only or name in given.only]
        runs = [
            Setting(jobs[name], tuple(given.set), seed)
            for name in names
            for seed in range(1, given.seeds + 1)
        ]
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(curves, runs))
    tree = {}
    for i, name in enumerate(names):
        of_job = found[i * given.seeds : (i + 1) * given.seeds]
        for figure in of_job[0]:
            tree[f"{name}, {figure}"] = summary(np.array([one[figure] for one in of_job]))
    show(tree)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

"""Seconds and bytes of a tree, for benchmarks/trees.py: Blindsum's rounds against a plaintext sum.

Three silos have a million made-up transactions of 30 columns together, and grow trees of depth 6
with 64 bins. Both arms run on this machine's Ray, one after the other, with the same code for
histograms and growth:

    plaintext   silos return their histograms, an aggregator adds them, silos grow the level.
                Nothing is evaluated
    encrypted   Blindsum's own federation: charges, signatures, ciphertext, digests, checkpoints,
                and the encrypted evaluation of held-out records after every round

The first tree of an arm does not count. With no records left out of a round, what remains is
`fixed`: the same arms on 300 records.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from transactions import COLUMNS, write_silos

from blindsum.actors.federation import Federation
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.comparison.baseline import member_of
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.schema import Job
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer

SILOS, DEPTH, BINS, HELD_OUT = ("alder", "birch", "cedar"), 6, 64, 20_000


def job_of(folder: Path, train: int, trees: int) -> Job:
    """Return the job of silos with so many training records each."""
    return Job.model_validate(
        {
            "name": "transactions",
            "silos": [{"name": s, "data": f"{s}.parquet", "state": str(folder / s)} for s in SILOS],
            "data": {
                "features": {"kind": "columns", "columns": {name: {} for name in COLUMNS}},
                "target": {"column": "fraud", "classes": [0, 1]},
                "folds": {"kind": "column"},
            },
            "model": {
                "kind": "trees",
                "trees": trees,
                "split": "best",
                "max_depth": DEPTH,
                "max_bin": BINS,
            },
            "training": {
                "rounds": trees * DEPTH,
                "local_steps": 1,
                "sampling_rate": 1.0,
                "expected_batch_size": train,
                "learning_rate": 0.1,
            },
            "privacy": {"noise": "none"},
        }
    )


@ray.remote(num_cpus=0)
class PlainSilo:
    """A silo that sends its histograms as they are."""

    def __init__(self, job: Job, name: str, folder: str) -> None:
        import torch

        torch.set_num_threads(1)
        data = member_of(JobFile(job, Path(folder) / "job.yaml", ""), name).data
        self._boosting = Boosting(job, job.model)  # type: ignore[arg-type]
        self._forest = get_parameters(model_of(job))
        random = np.random.default_rng(0)
        self._trainer = TreeTrainer(self._boosting, job, data.train, None, random)
        self._optimizer = SumsOptimizer(self._boosting, job)

    def ready(self) -> None:
        """Return as soon as the table has been read."""

    def sums(self, round: int) -> np.ndarray:
        return self._trainer.train(self._forest, 1.0, round).values

    def grow(self, total: np.ndarray, round: int) -> float:
        mean = total / len(SILOS)
        self._forest = self._optimizer.apply(self._forest, mean, round, len(SILOS))
        return float(self._forest.sum())


@ray.remote(num_cpus=0)
class PlainAggregator:
    def add(self, *sums: np.ndarray) -> np.ndarray:
        return np.sum(sums, axis=0)


def plaintext(job: Job, folder: Path, trees: int) -> list[float]:
    """Return the seconds of each tree of plaintext sums."""
    silos = [PlainSilo.remote(job, name, str(folder)) for name in SILOS]
    aggregator, seconds = PlainAggregator.remote(), []
    ray.get([silo.ready.remote() for silo in silos])
    for tree in range(trees):
        started = time.perf_counter()
        for round in range(tree * DEPTH + 1, (tree + 1) * DEPTH + 1):
            total = aggregator.add.remote(*[silo.sums.remote(round) for silo in silos])
            ray.get([silo.grow.remote(total, round) for silo in silos])
        seconds.append(time.perf_counter() - started)
    for actor in (*silos, aggregator):
        ray.kill(actor)
    return seconds


def encrypted(job: Job, folder: Path, trees: int) -> dict[str, Any]:
    """Return the seconds of each tree of a federation, a silo's bytes, and the phases' seconds."""
    started = time.perf_counter()
    federation = Federation(job, "trees", str(folder))
    federation.inspect()
    federation.exchange_keys()
    start_s, seconds, phases, up = time.perf_counter() - started, [], [], 0
    try:
        for tree in range(trees):
            started = time.perf_counter()
            numbers = range(tree * DEPTH + 1, (tree + 1) * DEPTH + 1)
            reports = [federation.run_round(number) for number in numbers]
            seconds.append(time.perf_counter() - started)
            phases.append({k: sum(r.phases[k] for r in reports) for k in reports[0].phases})
            up = sum(r.up_bytes for r in reports) // len(SILOS)
            score = reports[-1].metrics.held_out
    finally:
        federation.close()
    return {
        "seconds": seconds,
        "start_s": start_s,
        "up_bytes": up,
        "phases_s": {k: statistics.median(p[k] for p in phases[1:]) for k in phases[0]},
        "held_out": score.line() if score else "",
    }


def speed(records: int, trees: int) -> dict[str, Any]:
    """Return the figures of so many training records in three silos, and those of few (`fixed`).

    Args:
        trees: so many are grown.
    """
    few = _measured(300, 4, 100)
    found = _measured(records, trees, min(HELD_OUT, records // 10))
    keys = ("seconds_per_tree", "plaintext_seconds_per_tree", "phases_s")
    return {**found, "fixed": {key: few[key] for key in keys}}


def _measured(records: int, trees: int, held_out: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ray_session():
        folder, each = Path(temporary), records // len(SILOS)
        write_silos(folder, SILOS, each, held_out)
        job = job_of(folder, each, trees)
        # The plaintext arm before and after: others may use the machine too.
        plain = plaintext(job, folder, 4)[1:]
        found = encrypted(job, folder, trees)
        plain += plaintext(job, folder, 4)[1:]
    seconds = found.pop("seconds")
    median, reference = statistics.median(seconds[1:]), statistics.median(plain)
    return {
        "records": each * len(SILOS),
        "seconds_per_tree": median,
        "plaintext_seconds_per_tree": reference,
        "ratio": median / reference,
        "trees": len(seconds),
        "seconds": sum(seconds),
        **found,
    }

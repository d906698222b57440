"""Seconds and bytes of a tree, for benchmarks/trees.py: Blindsum's rounds against a plaintext sum.

Three silos have a million made-up transactions of 30 columns together, and grow trees of depth 6
with 64 bins. Both arms run on this machine's Ray, one after the other, with the same code for
histograms and growth:

    plaintext   silos return their histograms, an aggregator adds them, silos grow the level.
                Nothing is evaluated
    encrypted   Blindsum's own federation: charges, signatures, ciphertext, digests, checkpoints,
                and the encrypted evaluation of held-out records after every tree

The first tree of an arm does not count. `fixed` has the same arms on 300 records: what rounds cost
by themselves. `processor_s` are the seconds of all cores for a tree, of all processes of an arm: on
a machine that others use too they say more than the clock.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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
            "privacy": {"noise": "none", "metrics_every": DEPTH},
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


def processor_s() -> float:
    """Return the seconds that this process and those that it started have computed for."""
    found = 0.0
    for one in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


class Clock:
    """The seconds and processor seconds of each tree."""

    def __init__(self) -> None:
        self.seconds, self.processor = list[float](), list[float]()

    @contextmanager
    def tree(self) -> Iterator[None]:
        """Time a tree."""
        started, used = time.perf_counter(), processor_s()
        yield
        self.seconds.append(time.perf_counter() - started)
        self.processor.append(processor_s() - used)

    def figures(self) -> dict[str, float]:
        """Return medians, without the first tree."""
        return {
            "seconds_per_tree": statistics.median(self.seconds[1:]),
            "processor_s": statistics.median(self.processor[1:]),
        }


def plaintext(job: Job, folder: Path, trees: int, clock: Clock) -> None:
    """Time trees of plaintext sums."""
    silos = [PlainSilo.remote(job, name, str(folder)) for name in SILOS]
    aggregator = PlainAggregator.remote()
    ray.get([silo.ready.remote() for silo in silos])
    for tree in range(trees):
        with clock.tree():
            for round in range(tree * DEPTH + 1, (tree + 1) * DEPTH + 1):
                total = aggregator.add.remote(*[silo.sums.remote(round) for silo in silos])
                ray.get([silo.grow.remote(total, round) for silo in silos])
    for actor in (*silos, aggregator):
        ray.kill(actor)


def encrypted(job: Job, folder: Path, trees: int, clock: Clock) -> dict[str, Any]:
    """Time trees of a federation; return a silo's bytes for a tree and the phases' seconds."""
    started = time.perf_counter()
    federation = Federation(job, "trees", str(folder))
    federation.inspect()
    federation.exchange_keys()
    start_s, phases = time.perf_counter() - started, []
    try:
        for tree in range(trees):
            with clock.tree():
                numbers = range(tree * DEPTH + 1, (tree + 1) * DEPTH + 1)
                reports = [federation.run_round(number) for number in numbers]
            phases.append({k: sum(r.phases[k] for r in reports) for k in reports[0].phases})
        found = federation.evaluate()
    finally:
        federation.close()
    score = found.held_out if found else None
    return {
        "start_s": start_s,
        "up_bytes": sum(r.up_bytes for r in reports) // len(SILOS),
        "down_bytes": sum(r.down_bytes for r in reports) // len(SILOS),
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
    keys = ("seconds_per_tree", "processor_s", "plaintext", "ratio", "phases_s")
    return {**found, "fixed": {key: few[key] for key in keys}}


def _measured(records: int, trees: int, held_out: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, ray_session():
        folder, each = Path(temporary), records // len(SILOS)
        write_silos(folder, SILOS, each, held_out)
        job = job_of(folder, each, trees)
        clocks = Clock(), Clock(), Clock()
        # The plaintext arm before and after: others may use the machine too.
        plaintext(job, folder, 4, clocks[0])
        found = encrypted(job, folder, trees, clocks[1])
        plaintext(job, folder, 4, clocks[2])
    before, own, after = (clock.figures() for clock in clocks)
    reference = {key: (before[key] + after[key]) / 2 for key in before}
    return {
        "records": each * len(SILOS),
        **own,
        "plaintext": reference,
        "ratio": own["seconds_per_tree"] / reference["seconds_per_tree"],
        "processor_ratio": own["processor_s"] / reference["processor_s"],
        "trees": trees,
        "seconds": sum(clocks[1].seconds),
        "processor_s_of_all": sum(clocks[1].processor),
        **found,
    }

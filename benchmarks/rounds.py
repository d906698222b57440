"""Measure the cost of a round without training: an encrypted federation against a plaintext sum.

    python benchmarks/rounds.py --json build/rounds.json

Both arms run on this machine, one after the other, with three silo actors and one aggregator actor:

    plaintext   silos return float32 vectors, the aggregator adds them, silos take the mean
    encrypted   Blindsum's own federation with its charges, signatures, digests and encrypted
                metrics; training is replaced by a ready-made update of the same size

`startup_s` is the time from the command to the first round of the shipped example. Seconds are
medians; `up_bytes` is the size of one silo's uploads for its update and its metrics.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray
from rich.console import Console
from rich.table import Table

from blindsum.actors.federation import Federation
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import as_actor
from blindsum.infra.ray_session import ray_session
from blindsum.platform.job.schema import Job
from blindsum.platform.training.update import Protection, Update

SILOS = ("alder", "birch", "cedar")
SIZES = (2_000, 262_144)
EXAMPLE = Path(__file__).resolve().parents[1] / "examples/solubility/job.yaml"


class ReadySilo(Silo):
    """A silo whose training takes no time: it returns the same update each round."""

    def inspect(self) -> Any:
        inspection = super().inspect()
        values = np.random.default_rng(1).normal(0, 0.05, self._model.vector.size)
        update = Update(
            values=values.astype(np.float32), unit=1.0, protected_by=Protection.OWN_NOISE
        )
        self._own.trainer.train = lambda *_: update  # type: ignore[method-assign]
        return inspection


@ray.remote(num_cpus=0)
class PlainSilo:
    def __init__(self, size: int) -> None:
        self._update = np.random.default_rng(1).normal(0, 0.05, size).astype(np.float32)
        self._model = np.zeros(size, np.float32)

    def send(self) -> np.ndarray:
        return self._update.copy()

    def apply(self, total: np.ndarray) -> float:
        self._model = self._model + total / len(SILOS)
        return float(self._model[0])


@ray.remote(num_cpus=0)
class PlainAggregator:
    def add(self, *updates: np.ndarray) -> np.ndarray:
        return np.sum(updates, axis=0)


def job(folder: Path, parameters: int, rounds: int) -> Job:
    """Return a job whose model has exactly `parameters` parameters, on forty made-up records."""
    columns = {f"x{i}": np.linspace(-1, 1, 40) for i in range(4)}
    for silo in SILOS:
        table = columns | {"y": np.arange(40) % 2, "fold": ["train"] * 30 + ["test"] * 10}
        pyarrow.parquet.write_table(pa.table(table), folder / f"{silo}.parquet")
    (folder / "sized.py").write_text(
        "from torch import nn\n\n"
        "class Sized(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.weights = nn.Linear(4, {parameters // 4}, bias=False)\n\n"
        "    def forward(self, x):\n"
        "        return self.weights(x)[:, :2]\n\n"
        "def build(features, outputs):\n"
        "    return Sized()\n"
    )
    return Job.model_validate(
        {
            "name": "rounds",
            "silos": [
                {"name": s, "data": f"{s}.parquet", "state": str(folder / "state" / s)}
                for s in SILOS
            ],
            "data": {
                "features": {"kind": "columns", "columns": {name: {} for name in columns}},
                "target": {"column": "y", "classes": [0, 1]},
                "folds": {"kind": "column"},
            },
            "model": {"kind": "factory", "factory": "sized:build"},
            "training": {
                "rounds": rounds,
                "local_steps": 1,
                "sampling_rate": 0.1,
                "expected_batch_size": 3,
                "learning_rate": 0.1,
            },
            "privacy": {"noise": "local", "epsilon": 3, "delta": 1e-4},
        }
    )


def encrypted(parameters: int, rounds: int) -> dict[str, Any]:
    """Measure rounds of a real federation without its training."""
    with tempfile.TemporaryDirectory() as folder:
        warm = 3
        made = job(Path(folder), parameters, rounds + warm)
        federation = Federation(
            made, f"bench-{parameters}", folder, RayCluster(as_actor(lambda: ReadySilo))
        )
        inspected = federation.inspect()
        size = inspected[SILOS[0]].parameters
        if size != parameters:
            raise SystemExit(f"the model has {size} parameters instead of {parameters}")
        federation.exchange_keys()
        reports = [federation.run_round(number + 1) for number in range(rounds + warm)][warm:]
        federation.close()
    phases = {p: statistics.median(r.phases[p] for r in reports) for p in reports[0].phases}
    seconds = statistics.median(r.seconds for r in reports)
    return {
        "round_s": seconds,
        "up_bytes": reports[0].up_bytes // len(SILOS),
        "phases": phases,
        "rounds": rounds,
        "p90_s": float(np.quantile([r.seconds for r in reports], 0.9)),
    }


def plaintext(parameters: int, rounds: int) -> dict[str, Any]:
    """Measure the same exchange with plain float32 vectors."""
    silos = [PlainSilo.remote(parameters) for _ in SILOS]
    aggregator = PlainAggregator.remote()
    seconds = []
    for _ in range(rounds + 3):
        started = time.perf_counter()
        total = aggregator.add.remote(*[silo.send.remote() for silo in silos])
        ray.get([silo.apply.remote(total) for silo in silos])
        seconds.append(time.perf_counter() - started)
    for actor in (*silos, aggregator):
        ray.kill(actor)
    kept = seconds[3:]
    return {
        "round_s": statistics.median(kept),
        "up_bytes": 4 * parameters,
        "phases": {},
        "rounds": rounds,
        "p90_s": float(np.quantile(kept, 0.9)),
    }


def startup() -> float:
    """Return the seconds from the command to the first round of the shipped example."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "blindsum",
                "run",
                str(EXAMPLE),
                "--json",
                "--set",
                "training.rounds=1",
                "--set",
                f"runs={folder}/runs",
                "--set",
                f"tracking.uri=sqlite:///{folder}/mlflow.db",
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"BLINDSUM_HOME": folder},
        )
    planned = json.loads(done.stdout.splitlines()[0])
    return float(planned["startup_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--rounds", type=int, default=30, help="rounds to take medians over")
    options = parser.parse_args()
    if options.rounds < 20:
        parser.error("medians need at least 20 rounds")
    logging.getLogger("ray").setLevel(logging.ERROR)
    result: dict[str, Any] = {"startup_s": startup(), "cores": os.cpu_count()}
    arms: dict[str, dict[str, Any]] = {"plaintext": {}, "encrypted": {}}
    with ray_session():
        for size in SIZES:
            arms["plaintext"][str(size)] = plaintext(size, options.rounds)
            arms["encrypted"][str(size)] = encrypted(size, options.rounds)
    result["arms"] = arms
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the figures phase by phase, to show where time can be saved."""
    console = Console(highlight=False)
    console.print(f"start-up to the first round: {result['startup_s']:.1f} s")
    table = Table(box=None)
    for heading in (
        "parameters",
        "arm",
        "round ms",
        "p90 ms",
        "x plaintext",
        "up kB",
        "phases, ms",
    ):
        table.add_column(heading)
    for size in map(str, SIZES):
        reference = result["arms"]["plaintext"][size]["round_s"]
        for arm in ("plaintext", "encrypted"):
            figures = result["arms"][arm][size]
            phases = "  ".join(f"{k} {v * 1e3:.1f}" for k, v in figures["phases"].items())
            table.add_row(
                size,
                arm,
                f"{figures['round_s'] * 1e3:.1f}",
                f"{figures['p90_s'] * 1e3:.1f}",
                f"{figures['round_s'] / reference:.1f}",
                f"{figures['up_bytes'] / 1e3:.0f}",
                phases,
            )
    console.print(table)


if __name__ == "__main__":
    main()

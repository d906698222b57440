"""Measure whether memory stays flat over a long run, and how one machine copes with many silos.

    python benchmarks/soak.py --json FILE [--plot FILE] [--rounds 500] [--silos 32]

The long run is the solubility example with --rounds rounds. Every few rounds it reads the resident
memory of driver, silos and aggregator and the memory used by the object store. `growth_mb` is the
median of the last fifth of the run minus that of the second fifth, which is the reference because
the first fills caches. The other run is a federation of --silos silos on scikit-learn's digits,
compared with one of four silos: seconds per round, and memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml
from sklearn.datasets import load_digits

from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from blindsum.platform.job.file import JobFile, load_job

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/solubility/job.yaml"
EVERY = 5
MB = 2**20


def memory() -> dict[str, float]:
    """Return resident MB of the driver, of silos and aggregators on average, and of the store."""
    found: dict[str, list[float]] = {"driver": [psutil.Process().memory_info().rss / MB]}
    for process in psutil.process_iter(["cmdline"]):
        name = (process.info["cmdline"] or [""])[0]
        for kind in ("Silo", "Aggregator"):
            if name.startswith(f"ray::{kind}"):
                found.setdefault(kind.lower(), []).append(process.memory_info().rss / MB)
    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    store = total.get("object_store_memory", 0.0) - free.get("object_store_memory", 0.0)
    return {name: statistics.mean(values) for name, values in found.items()} | {
        "object store": store / MB
    }


class Sampling(Quiet):
    """An observer that reads the memory every `every` rounds."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.rounds: list[int] = []
        self.read: list[dict[str, float]] = []
        self.seconds: list[float] = []

    def planned(self, run: Any) -> None:
        """Show nothing."""

    def round(self, run: Any, report: Any) -> None:
        self.seconds.append(report.seconds)
        if report.round % self.every == 0:
            self.rounds.append(report.round)
            self.read.append(memory())


def example_in(folder: Path, rounds: int) -> JobFile:
    content = yaml.safe_load(EXAMPLE.read_text())
    for silo in content["silos"]:
        silo["data"] = str(EXAMPLE.parent / silo["data"])
        silo["state"] = str(folder / "state" / silo["name"])
    content["training"]["rounds"] = rounds
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


def digits_in(folder: Path, silos: int, rounds: int) -> JobFile:
    data = load_digits()
    names = [f"silo{i:02}" for i in range(silos)]
    for i, name in enumerate(names):
        rows = np.arange(i, len(data.target), silos)
        table = {f"p{j}": data.data[rows, j] for j in range(64)}
        pq.write_table(
            pa.table({**table, "digit": data.target[rows], "id": rows}), folder / f"{name}.parquet"
        )
    content: dict[str, Any] = {
        "name": f"silos-{silos}",
        "deadlines": {"start_s": 900},
        "silos": [
            {"name": n, "data": f"{n}.parquet", "state": str(folder / "state" / n)} for n in names
        ],
        "data": {
            "features": {
                "kind": "columns",
                "columns": {f"p{i}": {"center": 8, "scale": 4} for i in range(64)},
            },
            "target": {"column": "digit", "classes": list(range(10))},
            "folds": {"kind": "hash", "column": "id", "key": "integer", "salt": "soak"},
        },
        "model": {"kind": "mlp", "hidden": [64]},
        "training": {
            "rounds": rounds,
            "local_steps": 1,
            "sampling_rate": 0.5,
            "expected_batch_size": max(1, 700 // silos),
            "learning_rate": 1.0,
        },
        "privacy": {"noise": "shared", "epsilon": 8, "delta": 1e-5},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


def soak(rounds: int) -> tuple[dict[str, Any], Sampling]:
    sampling = Sampling(EVERY)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run = train(example_in(Path(folder), rounds), None, sampling)
        whole = time.monotonic() - started
    fifth = len(sampling.read) // 5
    figures: dict[str, Any] = {"rounds": len(run.reports), "seconds": whole}
    for name in sampling.read[-1]:
        values = [one[name] for one in sampling.read]
        early = statistics.median(values[fifth : 2 * fifth])
        late = statistics.median(values[-fifth:])
        figures[name] = {"early_mb": early, "late_mb": late, "growth_mb": late - early}
    figures["round_s"] = {
        "early": statistics.median(sampling.seconds[rounds // 5 : 2 * rounds // 5]),
        "late": statistics.median(sampling.seconds[-rounds // 5 :]),
    }
    return figures, sampling


def many(silos: int, rounds: int) -> dict[str, float]:
    sampling = Sampling(1)
    with tempfile.TemporaryDirectory() as folder:
        run = train(digits_in(Path(folder), silos, rounds), None, sampling)
    last = sampling.read[-1]
    held_out = run.held_out()
    return {
        "silos": silos,
        "startup_s": run.startup_s,
        "round_s": statistics.median(sampling.seconds[1:]),
        "silo_mb": last["silo"],
        "aggregator_mb": last["aggregator"],
        "driver_mb": last["driver"],
        "accuracy": float(held_out[1].score.value) if held_out else 0.0,
        "parameters": next(iter(run.inspections.values())).parameters,
        "up_bytes_per_silo": run.reports[-1].up_bytes / silos,
    }


def plot(sampling: Sampling, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for name in sampling.read[-1]:
        label = "silos, on average" if name == "silo" else name
        axes.plot(sampling.rounds, [one[name] for one in sampling.read], label=label)
    axes.set(xlabel="round", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="picture of the memory to write")
    parser.add_argument("--rounds", type=int, default=500, help="rounds of the long run")
    parser.add_argument("--silos", type=int, default=32, help="silos of the large federation")
    given = parser.parse_args()
    figures, sampling = soak(given.rounds)
    found = {"soak": figures, "silos": [many(4, 10), many(given.silos, 10)]}
    print(json.dumps(found, indent=1))
    for path in (given.json, given.plot):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if given.json:
        given.json.write_text(json.dumps(found | {"read": sampling.read, "at": sampling.rounds}))
    if given.plot:
        plot(sampling, given.plot)


if __name__ == "__main__":
    main()

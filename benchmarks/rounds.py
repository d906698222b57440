"""Measure the cost of a round without training: an encrypted federation against a plaintext sum.

    python benchmarks/rounds.py --json build/rounds.json --plot build/rounds.svg

Both arms run on this machine, one after the other, with silo actors and one aggregator actor:

    plaintext   silos return float32 vectors, the aggregator adds them, silos take the mean
    encrypted   Blindsum's own federation with its charges, signatures, digests and encrypted
                metrics; training is replaced by a ready-made update of the same size

`startup_s` is the time from the command to the first round of the shipped example. Seconds are
medians, and `ratio_to_plaintext` is the quotient of two of them; `up_bytes` and `down_bytes` are
one silo's for a round. `idle_s` is what no phase accounts for: calls between processes. `--before`
takes the JSON of an earlier version, for the plot.
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

ROWS = ((3, 2_000), (3, 262_144), (3, 1_000_000), (16, 2_000))
"""Silos and parameters."""

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

    def apply(self, total: np.ndarray, silos: int) -> float:
        self._model = self._model + total / silos
        return float(self._model[0])


@ray.remote(num_cpus=0)
class PlainAggregator:
    def add(self, *updates: np.ndarray) -> np.ndarray:
        return np.sum(updates, axis=0)


def names(silos: int) -> tuple[str, ...]:
    return tuple(f"silo{index:02}" for index in range(silos))


def job(folder: Path, parameters: int, rounds: int, silos: int = 3) -> Job:
    """Return a job whose model has exactly `parameters` parameters, on forty made-up records."""
    columns = {f"x{i}": np.linspace(-1, 1, 40) for i in range(4)}
    for silo in names(silos):
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
                for s in names(silos)
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


def encrypted(silos: int, parameters: int, rounds: int) -> dict[str, Any]:
    """Measure rounds of a real federation without its training."""
    with tempfile.TemporaryDirectory() as folder:
        warm = 3
        made = job(Path(folder), parameters, rounds + warm, silos)
        run, cluster = f"bench-{silos}-{parameters}", RayCluster(as_actor(lambda: ReadySilo))
        federation = Federation(made, run, folder, cluster)
        size = next(iter(federation.inspect().values())).parameters
        if size != parameters:
            raise SystemExit(f"the model has {size} parameters instead of {parameters}")
        federation.exchange_keys()
        reports = [federation.run_round(number + 1) for number in range(rounds + warm)][warm:]
        federation.close()
    phases = {p: statistics.median(r.phases[p] for r in reports) for p in reports[0].phases}
    seconds = statistics.median(r.seconds for r in reports)
    told = sum(v for name, v in phases.items() if name != "add")  # which is part of "send"
    return {
        "round_s": seconds,
        "up_bytes": reports[0].up_bytes // silos,
        "down_bytes": reports[0].down_bytes // silos,
        "phases": phases,
        "idle_s": seconds - told,
        "rounds": rounds,
        "p90_s": float(np.quantile([r.seconds for r in reports], 0.9)),
    }


def plaintext(silos: int, parameters: int, rounds: int) -> dict[str, Any]:
    """Measure the same exchange with plain float32 vectors."""
    actors = [PlainSilo.remote(parameters) for _ in range(silos)]
    aggregator = PlainAggregator.remote()
    seconds = []
    for _ in range(rounds + 3):
        started = time.perf_counter()
        total = aggregator.add.remote(*[silo.send.remote() for silo in actors])
        ray.get([silo.apply.remote(total, silos) for silo in actors])
        seconds.append(time.perf_counter() - started)
    for actor in (*actors, aggregator):
        ray.kill(actor)
    kept = seconds[3:]
    return {
        "round_s": statistics.median(kept),
        "up_bytes": 4 * parameters,
        "down_bytes": 4 * parameters,
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
    parser.add_argument("--plot", type=Path, help="file to draw the phases in, as SVG")
    parser.add_argument("--before", type=Path, help="figures of an earlier version, for the plot")
    options = parser.parse_args()
    if options.rounds < 20:
        parser.error("medians need at least 20 rounds")
    logging.getLogger("ray").setLevel(logging.ERROR)
    result: dict[str, Any] = {"startup_s": startup(), "cores": os.cpu_count()}
    arms: dict[str, dict[str, Any]] = {"plaintext": {}, "encrypted": {}}
    for silos, size in ROWS:
        row = row_name(silos, size)
        with ray_session():
            arms["plaintext"][row] = plaintext(silos, size, options.rounds)
            arms["encrypted"][row] = encrypted(silos, size, options.rounds)
        found = arms["encrypted"][row]
        found["ratio_to_plaintext"] = found["round_s"] / arms["plaintext"][row]["round_s"]
    result["arms"] = arms
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    if options.plot:
        before = json.loads(options.before.read_text()) if options.before else None
        draw(result, before, options.plot)


def row_name(silos: int, size: int) -> str:
    """Return a row's key in the JSON: the parameters, with the silos where they are not three."""
    return str(size) if silos == 3 else f"{size} by {silos} silos"


def show(result: dict[str, Any]) -> None:
    """Print the figures phase by phase, to show where time can be saved."""
    console = Console(highlight=False)
    console.print(f"start-up to the first round: {result['startup_s']:.1f} s")
    table = Table(box=None)
    for heading in ("parameters", "arm", "round ms", "p90 ms", "x plaintext", "up kB", "down kB"):
        table.add_column(heading)
    table.add_column("phases, ms")
    for row, found in result["arms"]["encrypted"].items():
        for arm, figures in (("plaintext", result["arms"]["plaintext"][row]), ("encrypted", found)):
            phases = "  ".join(f"{k} {v * 1e3:.1f}" for k, v in figures["phases"].items())
            table.add_row(
                row,
                arm,
                f"{figures['round_s'] * 1e3:.1f}",
                f"{figures['p90_s'] * 1e3:.1f}",
                f"{figures['ratio_to_plaintext']:.1f}" if arm == "encrypted" else "1.0",
                f"{figures['up_bytes'] / 1e3:.0f}",
                f"{figures['down_bytes'] / 1e3:.0f}",
                phases,
            )
    console.print(table)


PHASES = ("charge", "train", "send", "total", "decrypt", "apply", "metrics", "calls")
COLOURS = ("#4c78a8", "#9ecae9", "#f58518", "#ffbf79", "#54a24b", "#88d27a", "#b79a20", "#bab0ac")


def draw(result: dict[str, Any], before: dict[str, Any] | None, path: Path) -> None:
    """Draw a bar of phases for each row, now and before."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["arms"]["encrypted"] if "silos" not in row]
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(8, 1.5 * len(rows) + 0.9))
    for axis, row in zip(axes, rows, strict=True):
        bars = [("now", result)] + ([("before", before)] if before else [])
        bars = [(name, one) for name, one in bars if row in one["arms"]["encrypted"]]
        for at, (_, one) in enumerate(bars):
            figures, left = one["arms"]["encrypted"][row], 0.0
            told = {k: v for k, v in figures["phases"].items() if k != "add"}
            told["calls"] = figures["round_s"] - sum(told.values())
            for phase, colour in zip(PHASES, COLOURS, strict=True):
                width = told.get(phase, 0.0) * 1e3
                axis.barh(at, width, left=left, color=colour, label=phase if at == 0 else None)
                left += width
            plain = one["arms"]["plaintext"][row]["round_s"] * 1e3
            axis.plot([plain, plain], [at - 0.4, at + 0.4], color="black", lw=1)
        axis.set_yticks(range(len(bars)), [name for name, _ in bars])
        axis.set_title(f"{int(row):,} parameters", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("ms a round, three silos (black: the plaintext sum in the same run)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=8, fontsize=7, frameon=False, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()

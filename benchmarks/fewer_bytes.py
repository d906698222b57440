"""Measure what subsets and few bits cost in accuracy, and what they save in traffic.

    python benchmarks/fewer_bytes.py --json FILE [--seeds 3]

Three silos learn scikit-learn's digits with a dense model of 85,002 parameters, each in its own
thread, by the whole protocol (`blindsum.simulate`). Without differential privacy the round's two
local steps take half of the records each; with it (shared noise, epsilon 3) one step takes a
quarter. Accuracy is that of the last round on held-out records, on average over the seeds, with
their standard deviation; bytes are one silo's for one round, up and down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from soak import digits_in

import blindsum
from blindsum.pipelines.interface.job import Job

SILOS = 3
HIDDEN = [256, 256]
OPEN: dict[str, Any] = {
    "privacy": {"noise": "none"},
    "training": {"rounds": 60, "local_steps": 2, "sampling_rate": 0.5, "learning_rate": 0.3},
}
PRIVATE: dict[str, Any] = {
    "privacy": {"noise": "shared", "epsilon": 3, "delta": 1e-4},
    "training": {"rounds": 60, "local_steps": 1, "sampling_rate": 0.25, "learning_rate": 1.0},
}
FEEDS_BACK = {"error_feedback": True}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "no noise, 12 bits": (OPEN, {}, {"bits": 12}),
    "no noise, 4 bits": (OPEN, {}, {"bits": 4}),
    "no noise, 4 bits, error feedback": (OPEN, {}, {"bits": 4} | FEEDS_BACK),
    "no noise, 2 bits": (OPEN, {}, {"bits": 2}),
    "no noise, 2 bits, error feedback": (OPEN, {}, {"bits": 2} | FEEDS_BACK),
    "no noise, 12 bits, subset 0.1": (OPEN, {"subset": 0.1}, {"bits": 12}),
    "no noise, 4 bits, error feedback, subset 0.1": (
        OPEN,
        {"subset": 0.1},
        {"bits": 4} | FEEDS_BACK,
    ),
    "epsilon 3, 12 bits": (PRIVATE, {}, {"bits": 12}),
    "epsilon 3, 12 bits, subset 0.5": (PRIVATE, {"subset": 0.5}, {"bits": 12}),
    "epsilon 3, 12 bits, subset 0.1": (PRIVATE, {"subset": 0.1}, {"bits": 12}),
}


def run(
    base: dict[str, Any], training: dict[str, Any], encryption: dict[str, Any], seed: int
) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        job_file = digits_in(folder, SILOS, rounds=1)
        content = yaml.safe_load(job_file.text)
        content |= {"seed": seed, "privacy": base["privacy"]}
        content["model"] = {"kind": "mlp", "hidden": HIDDEN}
        content["training"] = base["training"] | training
        content["training"]["expected_batch_size"] = 400 * base["training"]["sampling_rate"]
        content["encryption"] = {"range": 0.1} if base is OPEN else {}
        content["encryption"] |= encryption
        tables = {silo["name"]: pq.read_table(folder / silo["data"]) for silo in content["silos"]}
        path = folder / "measured.yaml"
        path.write_text(yaml.safe_dump(content))
        done = blindsum.simulate(Job.read(path), tables, folder=folder / "runs", progress=False)
        before, last = done._reports[-2:]  # the last one's bytes include its model's evaluation
        up, down = before.up_bytes / SILOS, before.down_bytes / SILOS
        return last.metrics.held_out.accuracy, up, down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="settings whose name has this text")
    given = parser.parse_args()
    found = {}
    for name, setting in SETTINGS.items():
        if given.only not in name:
            continue
        runs = [run(*setting, seed) for seed in range(1, given.seeds + 1)]
        accuracies = [one[0] for one in runs]
        found[name] = {
            "accuracy": statistics.mean(accuracies),
            "deviation": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
            "up_bytes": runs[0][1],
            "down_bytes": runs[0][2],
        }
        print(name, json.dumps(found[name]), flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

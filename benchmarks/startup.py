"""Measure the time from the command to the first round, against the floor that Ray and torch set.

    python benchmarks/startup.py --json build/startup.json

Both arms run here in turn, `--repeats` times, each in processes of its own:

    floor     a Python process that starts a local Ray and three actors that import torch
    startup   `blindsum run examples/solubility/job.yaml`, from the command until the rounds begin

The cache of privacy plans (`blindsum.platform.privacy.plan_cache`) is empty in the first repeat,
as on a machine that never ran this job; `first_s` is that repeat. The other figures are medians
over the repeats after it.

JSON: floor_s, startup_s, ratio (startup_s / floor_s), first_s, first_ratio, and each repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/solubility/job.yaml"
console = Console()

FLOOR = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
import ray
ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         _node_ip_address="127.0.0.1", object_store_memory=512 * 2**20)

class Silo:
    def ready(self):
        import torch
        return torch.__version__

actor = ray.remote(num_cpus=0)(Silo)
ray.get([one.ready.remote() for one in [actor.remote() for _ in range(3)]])
print("ready", flush=True)
"""


def floor() -> float:
    """Seconds until Ray and three actors with torch are ready."""
    started = time.monotonic()
    command = [sys.executable, "-c", FLOOR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _wait_for(process, "ready")
        seconds = time.monotonic() - started
    return seconds


def startup(home: Path) -> float:
    """Seconds from the command until the first round of the example is announced."""
    rounds = ["--set", "training.rounds=100", "--set", f"runs={home / 'runs'}"]
    command = [sys.executable, "-m", "blindsum", "run", str(EXAMPLE), "--json", *rounds]
    environment = os.environ | {"BLINDSUM_HOME": str(home)}
    started = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        _wait_for(process, '"planned"')
        seconds = time.monotonic() - started
        process.terminate()
    return seconds


def _wait_for(process: subprocess.Popen[str], text: str) -> None:
    for line in process.stdout or ():
        if text in line:
            return
    raise SystemExit("a process ended before it was ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    floors, startups = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats + 1):
            floors.append(floor())
            startups.append(startup(Path(folder)))
            console.print(f"floor {floors[-1]:.2f} s, start-up {startups[-1]:.2f} s")
    floor_s = statistics.median(floors)
    startup_s = statistics.median(startups[1:])
    tree = {
        "floor_s": round(floor_s, 3),
        "startup_s": round(startup_s, 3),
        "ratio": round(startup_s / floor_s, 3),
        "first_s": round(startups[0], 3),
        "first_ratio": round(startups[0] / floor_s, 3),
        "floors_s": [round(one, 3) for one in floors],
        "startups_s": [round(one, 3) for one in startups],
    }
    console.print(tree)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

"""Measure what a wide table costs `blindsum check`, against pyarrow reading the same files alone.

    python benchmarks/tables.py --json build/tables.json

Two silos have tables of 240 records and 1,000, 4,000 or 20,000 columns of numbers (Parquet), all of
which the job trains on. For each width, in processes of their own and in turn, `--repeats` times:

    arrow     reads both files with pyarrow and does nothing else
    check     `blindsum check` of the job

Times are processor seconds of the process, as medians. `table_s` is what one table adds: half of
the difference from a check of ten columns. The first check fills the cache of privacy plans.

JSON: for each width arrow_s, check_s and table_s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml
from rich.console import Console
from rich.table import Table

NARROW, WIDTHS, RECORDS, SILOS = 10, (1_000, 4_000, 20_000), 240, ("alder", "birch")
ARROW = "import sys, pyarrow.parquet\nfor p in sys.argv[1:]: pyarrow.parquet.ParquetFile(p).read()"
console = Console()


def write_job(folder: Path, width: int) -> Path:
    """Write the tables of both silos and the job, and return the job's path."""
    folder.mkdir()
    names = [f"gene_{i:05d}" for i in range(width)]
    for number, silo in enumerate(SILOS):
        random = np.random.default_rng(number)
        columns = {name: random.normal(size=RECORDS) for name in names}
        columns["patient"] = np.arange(RECORDS) + RECORDS * number
        columns["ill"] = random.integers(0, 2, RECORDS)
        pyarrow.parquet.write_table(pa.table(columns), folder / f"{silo}.parquet")
    content = {
        "name": "wide",
        "silos": [
            {"name": silo, "data": f"{silo}.parquet", "state": str(folder / silo)} for silo in SILOS
        ],
        "data": {
            "features": {"kind": "columns", "columns": {name: {"scale": 1.0} for name in names}},
            "target": {"column": "ill", "classes": [0, 1]},
            "folds": {"kind": "hash", "column": "patient", "key": "integer", "salt": "s"},
        },
        "model": {"kind": "linear"},
        "training": {
            "rounds": 3,
            "local_steps": 2,
            "sampling_rate": 0.2,
            "expected_batch_size": 38,
            "learning_rate": 0.5,
        },
        "privacy": {"noise": "local", "epsilon": 3, "delta": 1e-4},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def processor_seconds(command: Sequence[str], home: Path) -> float:
    """Return the processor time of a command, which has to succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"BLINDSUM_HOME": str(home)}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(widths: Sequence[int], repeats: int) -> dict[str, dict[str, float]]:
    """Return the medians for each width."""
    times: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        jobs = {width: write_job(Path(temporary) / str(width), width) for width in widths}
        processor_seconds(["-m", "blindsum", "check", str(jobs[NARROW])], home)
        for _ in range(repeats):
            for width, job in jobs.items():
                tables = [str(job.with_name(f"{silo}.parquet")) for silo in SILOS]
                found = times.setdefault(width, {"arrow_s": [], "check_s": []})
                found["arrow_s"].append(processor_seconds(["-c", ARROW, *tables], home))
                check = ["-m", "blindsum", "check", str(job)]
                found["check_s"].append(processor_seconds(check, home))
    medians = {w: {k: statistics.median(v) for k, v in found.items()} for w, found in times.items()}
    for found in medians.values():
        found["table_s"] = (found["check_s"] - medians[NARROW]["check_s"]) / len(SILOS)
    return {str(width): found for width, found in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    given = parser.parse_args()
    found = measure([NARROW, *given.widths], given.repeats)
    shown = Table("columns", "pyarrow alone", "check", "one table adds", title="processor seconds")
    for width, times in found.items():
        shown.add_row(f"{int(width):,}", *(f"{seconds:.2f}" for seconds in times.values()))
    console.print(shown)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

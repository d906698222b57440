"""Measure what a table costs: a wide one `blindsum check`, and a long one time and memory.

    python benchmarks/tables.py --json build/tables.json

Wide: two silos have tables of 240 records and 1,000, 4,000 or 20,000 columns of numbers (Parquet),
all of which the job trains on. For each width, in processes of their own and in turn, `--repeats`
times:

    arrow     reads both files with pyarrow and does nothing else
    check     `blindsum check` of the job

Times are processor seconds of the process, as medians. `table_s` is what one table adds: half of
the difference from a check of ten columns. The first check fills the cache of privacy plans.

Long: one silo's table of 10^5, 10^6 and 10^7 records and 40 columns of float32, with a fold key and
a label (benchmarks/long_table.py, a process for each): pyarrow reads it in batches, then Blindsum
reads it, checks it, takes its fingerprint and splits it into folds, takes ten steps of DP-SGD with
samples of about 2,000 records, and evaluates the held-out records. `peak_mb` is the greatest
anonymous memory above that before the table is read; pages of files do not count, which the kernel
drops when memory is short. `--most-mb` sets a limit of memory, pages included, for these processes
(cgroups version 1, as root).

JSON: `wide.WIDTH` has arrow_s, check_s and table_s; `long.RECORDS` has arrow_s, read_s,
records_per_s, peak_mb, step_s and evaluation_s.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml
from long_table import write_long
from rich.console import Console
from rich.table import Table

NARROW, WIDTHS, RECORDS, SILOS = 10, (1_000, 4_000, 20_000), 240, ("alder", "birch")
RECORDS_OF_LONG, LONG = (10**5, 10**6, 10**7), Path(__file__).with_name("long_table.py")
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


def measure_long(records: Sequence[int], most_mb: int | None) -> dict[str, dict[str, float]]:
    """Return the figures of each number of records."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for count in records:
            path = Path(temporary) / f"{count}.parquet"
            write_long(path, count)
            command = [sys.executable, str(LONG), str(path)]
            with _limited(most_mb) as enter:
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, preexec_fn=enter, text=True
                )
            found[str(count)] = json.loads(done.stdout)
            path.unlink()
    return found


@contextmanager
def _limited(most_mb: int | None) -> Iterator[Callable[[], None] | None]:
    """Yield a function with which a process enters a group of limited memory."""
    if most_mb is None:
        yield None
        return
    group = Path("/sys/fs/cgroup/memory/blindsum-benchmark")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(most_mb * 2**20))
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        group.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--records", type=int, nargs="*", default=RECORDS_OF_LONG)
    parser.add_argument("--most-mb", type=int)
    given = parser.parse_args()
    found = {"wide": measure([NARROW, *given.widths], given.repeats)} if given.widths else {}
    found["long"] = measure_long(given.records, given.most_mb) if given.records else {}
    wide = Table("columns", "pyarrow alone", "check", "one table adds", title="processor seconds")
    for width, times in found.get("wide", {}).items():
        wide.add_row(f"{int(width):,}", *(f"{seconds:.2f}" for seconds in times.values()))
    names = ("pyarrow alone", "read", "records a second", "peak MB", "step", "evaluation")
    long = Table("records", *names, title="40 columns; seconds")
    for count, figures in found["long"].items():
        long.add_row(f"{int(count):,}", *(f"{figure:,.3g}" for figure in figures.values()))
    console.print(*(shown for shown in (wide, long) if shown.row_count))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

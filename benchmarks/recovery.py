"""Measure the seconds from a failure until the retry without the failed part completes its round.

    python benchmarks/recovery.py --json FILE

Four silos with a quorum of two train on scikit-learn's digits. A silo is killed in the middle of a
round, then an aggregator, then a silo is stopped (SIGSTOP) with a deadline of DEADLINE_S. The
reference is a round in which nothing fails. Finally the driver of a second run is killed, in a
separate process: seconds until its silos are gone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from sklearn.datasets import load_digits

from blindsum.infra.ray_session import ray_session
from blindsum.platform.job.file import JobFile, load_job

DEADLINE_S = 10.0
SILOS = ("alder", "birch", "cedar", "elm")


def job_in(folder: Path) -> JobFile:
    data = load_digits()
    columns = {f"p{i}": {"center": 8, "scale": 4} for i in range(64)}
    for i, name in enumerate(SILOS):
        rows = np.arange(i, len(data.target), len(SILOS))
        table = {f"p{j}": data.data[rows, j] for j in range(64)}
        pq.write_table(
            pa.table({**table, "digit": data.target[rows], "id": rows}), folder / f"{name}.parquet"
        )
    content: dict[str, Any] = {
        "name": "recovery",
        "quorum": 2,
        "deadlines": {"round_s": DEADLINE_S},
        "silos": [
            {"name": n, "data": f"{n}.parquet", "state": str(folder / "state" / n)} for n in SILOS
        ],
        "data": {
            "features": {"kind": "columns", "columns": columns},
            "target": {"column": "digit", "classes": list(range(10))},
            "folds": {"kind": "hash", "column": "id", "key": "integer", "salt": "recovery"},
        },
        "model": {"kind": "mlp", "hidden": [256]},
        "training": {
            "rounds": 500,
            "local_steps": 20,
            "sampling_rate": 0.2,
            "expected_batch_size": 70,
            "learning_rate": 0.1,
        },
        "privacy": {"noise": "local", "epsilon": 8, "delta": 1e-5},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


def processes(name: str) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if (p.info["cmdline"] or [""])[0].startswith(f"ray::{name}")]


def signalled(name: str, how: int, after_s: float) -> dict[str, float]:
    """Send a signal to the first process of that name after a delay; return when, under "at"."""
    sent: dict[str, float] = {}

    def send() -> None:
        time.sleep(after_s)
        sent["at"] = time.monotonic()
        processes(name)[0].send_signal(how)

    threading.Thread(target=send).start()
    return sent


def rounds(folder: Path) -> dict[str, float]:
    from blindsum.actors.federation import Federation

    figures = {}
    with ray_session():
        one = Federation(job_in(folder).job, "recovery", str(folder))
        one.inspect()
        one.exchange_keys()
        whole = [one.run_round(number).seconds for number in range(1, 6)]
        figures["undisturbed_round_s"] = float(np.median(whole))
        number = 6
        for name, process, how in (
            ("silo_killed_s", "Silo", signal.SIGKILL),
            ("aggregator_killed_s", "Aggregator", signal.SIGKILL),
            ("silo_stopped_s", "Silo", signal.SIGSTOP),
        ):
            sent = signalled(process, how, figures["undisturbed_round_s"] / 2)
            while one.run_round(number).attempt == 1:
                number += 1
            figures[name] = time.monotonic() - sent["at"]
            number += 1
        one.close()
    return figures


def driver(folder: Path) -> float:
    """Return the seconds from the driver's SIGKILL until all its silos are gone."""
    job_in(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "blindsum", "run", str(folder / "job.yaml"), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout or ():
        if json.loads(line)["event"] == "round":
            break
    silos = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "ray::Silo" in p.name() or (p.cmdline() or [""])[0].startswith("ray::Silo")
    ]
    started = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(silos, timeout=120)
    if alive:
        raise SystemExit("silos outlived their driver")
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        figures = rounds(Path(one)) | {"driver_killed_silos_gone_s": driver(Path(two))}
    figures["deadline_s"] = DEADLINE_S
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

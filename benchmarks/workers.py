"""Measure a silo whose table two workers share, with one process as the reference.

    python benchmarks/workers.py --json build/workers.json

Three tables: 10^5 and 10^6 records of 40 columns of float32 (benchmarks/long_table.py), and 50,000
molecules as fingerprints of 2,048 bits. Each arm is a process of its own with a Ray of this
machine, which prepares one silo as a run does; nothing of an earlier arm is kept.

    alone     silos.a.workers: 1, with all cores of the machine
    workers   silos.a.workers: 2, each with its part of the cores

`start_s` is the start of the workers' processes, `read_s` reading: checks, fingerprints, features
and folds. `read_cpu_s` is the processor time on the way: of the silo's process and of the busiest
worker, which is what reading takes if every process has a core. `step_s` is a step of DP-SGD with a
sample of about 2,000 records, whose gradients are clipped, and local noise; `evaluation_s` counts
the held-out records. These two are medians of `--repeats`. `--threads N` limits both arms to N
cores.

`integers` are those that the silo would send after ten steps, in a seeded run of both arms: how
many there are, how many differ, and by how much at most. The model is an MLP.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from long_table import NAMES, write_long
from rich.console import Console
from rich.table import Table

RECORDS, MOLECULES, BITS, SAMPLE, STEPS = (10**5, 10**6), 50_000, 2048, 2_000, 10
console = Console()


def write_molecules(path: Path, count: int) -> None:
    """Write a table of mixtures of two of the solubility example's molecules, with a label."""
    folder = Path(__file__).parent.parent / "examples" / "solubility" / "data"
    tables = [pq.read_table(one) for one in sorted(folder.glob("*.parquet"))]
    texts = sorted({text for table in tables for text in table["smiles"].to_pylist() if text})
    pairs = itertools.islice(itertools.combinations(texts[: 2 * int(count**0.5)], 2), count)
    smiles = [f"{a}.{b}" for a, b in pairs]
    labels = np.random.default_rng(0).integers(0, 2, len(smiles))
    table = pa.table({"smiles": smiles, "hit": labels})
    pq.write_table(table, path, row_group_size=10_000)


def job_of(path: Path, records: int, workers: int, seeded: bool) -> dict[str, Any]:
    """Return a job for one of the tables."""
    molecules = path.stem == "molecules"
    data: dict[str, Any] = {
        "features": {"kind": "columns", "columns": {name: {"scale": 1.0} for name in NAMES}},
        "target": {"column": "ill", "classes": [0, 1]},
        "folds": {"kind": "hash", "column": "patient", "key": "integer", "salt": "s"},
    }
    if molecules:
        data = {
            "features": {"kind": "ecfp", "smiles": "smiles", "bits": BITS},
            "tasks": {"hit": {}},
            "folds": {"kind": "random", "salt": "s"},
        }
    return {
        "name": "shared",
        "silos": [
            {
                "name": name,
                "data": str(path.with_name(f"{name}-{path.name}") if name == "b" else path),
                "state": str(path.parent / f"state-{name}"),
                **({"workers": workers} if name == "a" else {}),
            }
            for name in ("a", "b")
        ],
        "data": data,
        "model": {"kind": "mlp", "hidden": [128] if molecules else [64]},
        "training": {
            "rounds": 2,
            "local_steps": STEPS,
            "sampling_rate": SAMPLE / (0.8 * records),
            "expected_batch_size": SAMPLE,
            "learning_rate": 0.5,
        },
        "privacy": {
            "noise": "local",
            "epsilon": 3.0,
            "delta": 1e-9,
            **({"test_seed": 5} if seeded else {}),
        },
        "encryption": {"range": 0.25},
    }


def processor_s(cores: int) -> float:
    """Return the processor time of this process so far, and of the children that it waited for,
    which use so many cores at a time."""
    used = os.times()
    return used.user + used.system + (used.children_user + used.children_system) / cores


def arm(path: Path, records: int, workers: int, repeats: int, threads: int | None) -> None:
    """Measure one arm in this process, and print its figures as JSON."""
    import ray
    import torch

    from blindsum.actors.admission import Admission
    from blindsum.actors.messages import SiloSpec
    from blindsum.actors.prepared import PreparedSilo, prepare
    from blindsum.actors.workers.team import Team
    from blindsum.infra.ray_session import ray_session
    from blindsum.platform.data.computing import granted_cores
    from blindsum.platform.evaluation.round_counts import Tally
    from blindsum.platform.job.schema import Job
    from blindsum.platform.training.models import get_parameters

    cores = threads or granted_cores()
    torch.set_num_threads(cores)
    started = {"start_s": 0.0}
    begin, idle = Team._begin, [0.0]

    def timed(team: Team) -> None:
        before = time.perf_counter()
        begin(team)
        started["start_s"] = time.perf_counter() - before
        idle[:] = of_workers(team)

    def of_workers(team: Any) -> list[float]:
        """Return the processor time of each worker so far; one of none without any."""
        if not team:
            return [0.0]
        asked = [w.__ray_call__.remote(lambda _: processor_s(1)) for w in team._processes._workers]
        times: list[float] = ray.get(asked)
        return times

    Team._begin = timed  # type: ignore[method-assign]

    def silo(seeded: bool) -> PreparedSilo:
        job = Job.model_validate(job_of(path, records, workers, seeded))
        spec = SiloSpec(job=job, run=f"run-{seeded}", name="a", folder="/", threads=cores)
        return prepare(spec, Admission(spec), lambda _: None)

    def seconds(do: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            do()
            times.append(time.perf_counter() - before)
        return statistics.median(times)

    with ray_session(None):
        began, busy = time.perf_counter(), processor_s(cores)
        own = silo(seeded=False)
        whole_s, busy = time.perf_counter() - began, processor_s(cores) - busy
        of_each = zip(of_workers(own.trainer._elsewhere), idle, strict=True)
        start = get_parameters(own.model)
        own.trainer.train(start)  # the first one warms up
        found: dict[str, Any] = {
            **started,
            "read_s": whole_s - started["start_s"],
            "read_cpu_s": busy + max(after - before for after, before in of_each),
            "step_s": seconds(lambda: own.trainer.train(start)) / STEPS,
            "evaluation_s": seconds(lambda: own.counting.counts(own.model, 1, Tally(), ("a", "b"))),
        }
        own = silo(seeded=True)
        update = own.trainer.train(start)
        digits = own.digitiser.digits(update, None, own.range, Tally())  # type: ignore[arg-type]
        found["integers"] = digits(slice(0, len(start))).tolist()
        found["fingerprint"] = own.data.fingerprint
    print(json.dumps(found))


def measure(path: Path, records: int, repeats: int, threads: int | None) -> dict[str, Any]:
    """Return the figures of both arms for one table."""
    arms: dict[str, Any] = {}
    for name, workers in (("alone", 1), ("workers", 2)):
        with tempfile.TemporaryDirectory(dir=path.parent) as home:
            command = [sys.executable, __file__, "--arm", str(path), str(records), str(workers)]
            command += ["--repeats", str(repeats)]
            command += ["--threads", str(threads)] if threads else []
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"BLINDSUM_HOME": home},
            )
            arms[name] = json.loads(done.stdout.splitlines()[-1])
        subprocess.run(["rm", "-rf", str(path.parent / "state-a")], check=True)
    sent = [np.array(one.pop("integers")) for one in arms.values()]
    if len({one.pop("fingerprint") for one in arms.values()}) > 1:
        raise SystemExit("the two arms read different records")
    apart = np.abs(sent[0] - sent[1])
    arms["integers"] = {
        "sent": len(apart),
        "different": int((apart > 0).sum()),
        "at_most": int(apart.max()),
    }
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--records", type=int, nargs="*", default=RECORDS)
    parser.add_argument("--molecules", type=int, default=MOLECULES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        path, records, workers = given.arm
        return arm(Path(path), int(records), int(workers), given.repeats, given.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for count in given.records:
            path = Path(temporary) / f"{count}.parquet"
            write_long(path, count)
            found[str(count)] = measure(path, count, given.repeats, given.threads)
            path.unlink()
        if given.molecules:
            path = Path(temporary) / "molecules.parquet"
            write_molecules(path, given.molecules)
            found["molecules"] = measure(path, given.molecules, given.repeats, given.threads)
    table = Table(
        "table", "arm", "start", "read", "read, CPU", "step", "evaluation", title="seconds"
    )
    for name, arms in found.items():
        for arm_name in ("alone", "workers"):
            figures = arms[arm_name].values()
            table.add_row(name, arm_name, *(f"{figure:.3g}" for figure in figures))
    console.print(table)
    for name, arms in found.items():
        console.print(f"{name}: {arms['integers']}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()

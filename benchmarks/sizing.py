"""Measure memory and traffic by model size, to show what a node needs.

    python benchmarks/sizing.py --json FILE

Three silos train dense models of growing size on scikit-learn's digits, two rounds each, with
differential privacy and encryption. Memory is the peak of each process (VmHWM). Bytes per parameter
are the memory beyond that of the smallest model, which is the reference, divided by the additional
parameters. Traffic is in bytes for one silo and one round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import psutil
import ray
from soak import digits_in

from blindsum.infra.ray_session import ray_session
from blindsum.platform.job.schema import Job

HIDDEN = ([64], [1000, 1000], [2000, 2000], [3000, 3000])
SILOS = 3


def peaks() -> dict[str, float]:
    """Return the largest peak resident memory among silos and among aggregators, MB."""
    found: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline"]):
        name = (process.info["cmdline"] or [""])[0]
        for kind in ("Silo", "Aggregator"):
            if name.startswith(f"ray::{kind}"):
                status = Path(f"/proc/{process.pid}/status").read_text()
                (line,) = [text for text in status.splitlines() if text.startswith("VmHWM")]
                found[kind.lower()] = max(found.get(kind.lower(), 0.0), int(line.split()[1]) / 1024)
    return found


def measured(folder: Path, hidden: list[int]) -> dict[str, Any]:
    from blindsum.actors.federation import Federation

    job_file = digits_in(folder, SILOS, rounds=2)
    content = job_file.job.model_dump()
    content["model"]["hidden"] = hidden
    content["privacy"] = {"noise": "local", "epsilon": 8, "delta": 1e-5}
    with ray_session():
        one = Federation(Job.model_validate(content), "sizing", str(folder))
        try:
            inspections = one.inspect()
            one.exchange_keys()
            reports = [one.run_round(number) for number in (1, 2)]
            store = ray.cluster_resources().get("object_store_memory", 0.0) / 2**20
            return {
                "parameters": next(iter(inspections.values())).parameters,
                "up_bytes": reports[-1].up_bytes / SILOS,
                "down_bytes": reports[-1].down_bytes / SILOS,
                "round_s": reports[-1].seconds,
                "aggregators": len(one._aggregators),
                "object_store_limit_mb": store,
                **peaks(),
            }
        finally:
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    rows = []
    for hidden in HIDDEN:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(Path(folder), list(hidden)))
        first, last = rows[0], rows[-1]
        more = last["parameters"] - first["parameters"]
        for kind in ("silo", "aggregator"):
            if more:
                last[f"{kind}_bytes_per_parameter"] = (last[kind] - first[kind]) * 2**20 / more
        print(json.dumps(last))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

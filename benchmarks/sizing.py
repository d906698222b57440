"""Measure memory and traffic by model size, to show what a node needs.

    python benchmarks/sizing.py --json FILE [--large 10000000] [--bits 12]

Three silos train dense models of growing size on scikit-learn's digits, two rounds each, with
differential privacy and encryption. Memory is the peak of each process (VmHWM), and of that
`silo_anonymous` the most that no file backs, read a few times a second: the rest of the peak are
Ray's object store, libraries, and vectors in files, whose pages the system takes back when it needs
them.
Bytes per parameter are the memory beyond that of the smallest model, which is the reference,
divided by the additional parameters. Traffic is in bytes for one silo and one round.

`--large` adds a model of about so many parameters, up to 10^8: three silos then need 12 GB of
memory, 15 GB of disk, and some minutes a round.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
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


class Anonymous(threading.Thread):
    """Reads silos' anonymous memory, and keeps the greatest, MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.greatest, self.going = 0.0, True

    def run(self) -> None:
        silos = list[Path]()
        while self.going:
            if len(silos) < SILOS:
                silos = [
                    Path(f"/proc/{process.pid}/status")
                    for process in psutil.process_iter(["cmdline"])
                    if (process.info["cmdline"] or [""])[0].startswith("ray::Silo")
                ]
            for path in silos:
                try:
                    found = path.read_text().split("RssAnon:")[1].split()[0]
                except (OSError, IndexError):  # of the model before, whose processes end
                    silos = []
                    break
                self.greatest = max(self.greatest, int(found) / 1024)
            time.sleep(0.05)


def measured(folder: Path, hidden: list[int], bits: int | None) -> dict[str, Any]:
    from blindsum.actors.federation import Federation

    job_file = digits_in(folder, SILOS, rounds=2)
    content = job_file.job.model_dump()
    content["model"]["hidden"] = hidden
    content["privacy"] = {"noise": "local", "epsilon": 8, "delta": 1e-5}
    content["encryption"] = {"bits": bits}
    content["deadlines"] = {"start_s": 1800, "round_s": 3600}
    watched = Anonymous()
    with ray_session():
        one = Federation(Job.model_validate(content), "sizing", str(folder))
        watched.start()
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
                "phases_s": reports[-1].phases,
                "aggregators": len(one._aggregators),
                "object_store_limit_mb": store,
                "silo_anonymous": watched.greatest,
                **peaks(),
            }
        finally:
            watched.going = False
            one.close()


def width(parameters: int) -> int:
    """Return the width of two hidden layers with which digits' model has that many parameters."""
    # 64 h + h + h h + h + 10 h + 10
    return int((-76 + math.sqrt(76**2 + 4 * parameters)) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--large", type=int, help="parameters of a further, large model")
    parser.add_argument("--bits", type=int, help="encryption.bits; default 19")
    parser.add_argument("--only-large", action="store_true", help="besides the smallest model")
    parser.add_argument("--folder", help="where the silos' state lies; it must not be in memory")
    given = parser.parse_args()
    large = [[width(given.large)] * 2] if given.large else []
    rows = []
    for hidden in [*(HIDDEN[:1] if given.only_large else HIDDEN), *large]:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            rows.append(measured(Path(folder), list(hidden), given.bits))
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

"""Measure a silo of up to a million compounds and 5,000 assays: memory, and time per compound.

    python benchmarks/scale.py --json build/scale.json [--compounds 10000 1000000] [--silos 3]

For each number of compounds, in a process each (benchmarks/scale_silo.py):

    prepare   `blindsum prepare` of made-up tables in the long form: ten measurements a compound,
              of 5,000 assays with a threshold each, 7 % of them bounds. RDKit's part is not in it:
              its results lie in the cache, made up too (benchmarks/prepare.py measures it)
    train     reads what was prepared, checks it and splits it into folds; then takes one step
              without privacy over all training records, or about `--trained` of them: fingerprints
              of 32,000 bits (50 are 1), one hidden layer, a private head for all assays but one

Peaks are the process's largest anonymous memory, and its largest resident memory, which counts
pages of files that the kernel drops when memory is short. Ratios are of processor seconds per
compound, to the smallest size of the same run: 1 is linear. With `--silos 3`, three silos prepare
and then train at the same time, and every figure is that of the silo for which it is largest.

JSON: by compounds, the figures of both processes, and `load`, the machine's load before each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

SILO = Path(__file__).with_name("scale_silo.py")
Figures = dict[str, float]


def process(*arguments: object) -> Figures:
    """Run a step in a process of its own, and return its figures."""
    command = [sys.executable, str(SILO), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def at_once(commands: list[tuple[object, ...]]) -> Figures:
    """Run a step of every silo at the same time; return the largest of each figure."""
    with ThreadPoolExecutor(len(commands)) as silos:
        found = list(silos.map(lambda arguments: process(*arguments), commands))
    return {name: max(one[name] for one in found) for name in found[0]}


def measure(compounds: int, given: argparse.Namespace, folder: Path) -> Figures:
    """Return the figures of a number of compounds."""
    silos = [folder / f"{compounds}-{i}" for i in range(given.silos)]
    for silo in silos:
        process("make", silo, compounds, given.assays, given.bits)
    found = {"load": os.getloadavg()[0]}
    prepared = at_once([("prepare", silo) for silo in silos])
    found |= {f"prepare_{name}": value for name, value in prepared.items()}
    found |= {"load_before_training": os.getloadavg()[0]}
    found |= at_once([("train", silo, given.hidden, given.trained) for silo in silos])
    for silo in silos:
        shutil.rmtree(silo)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compounds", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--assays", type=int, default=5_000)
    parser.add_argument("--bits", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--silos", type=int, default=1, help="silos that work at the same time")
    parser.add_argument("--trained", type=int, default=100_000, help="records of the step, at most")
    given = parser.parse_args()
    found: dict[int, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        for compounds in sorted(given.compounds):
            found[compounds] = measure(compounds, given, Path(folder))
    table = Table("compounds", "", *(f"{what} a 100,000" for what in ("seconds", "processor")))
    for name in ("ratio", "peak", "resident"):
        table.add_column(name)
    for compounds, figures in found.items():
        for name, records, peak in (
            ("prepare", compounds, "prepare_"),
            ("read", compounds, "read_"),
            ("step", figures["trained_records"], ""),
        ):
            each = 1e5 / records
            figures[f"{name}_cpu_s_per_100k"] = figures[f"{name}_cpu_s"] * each
            least = found[min(found)][f"{name}_cpu_s_per_100k"]
            figures[f"{name}_ratio"] = figures[f"{name}_cpu_s_per_100k"] / least
            table.add_row(
                f"{compounds:,}",
                name,
                f"{figures[f'{name}_s'] * each:.1f}",
                f"{figures[f'{name}_cpu_s_per_100k']:.1f}",
                f"{figures[f'{name}_ratio']:.2f}",
                *(f"{figures[f'{peak}{kind}_mb']:,.0f} MB" for kind in ("anonymous", "rss")),
            )
    Console().print(table)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

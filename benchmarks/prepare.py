"""Measure molecules standardised per second, with Ray and in one process as the reference.

    python benchmarks/prepare.py --json FILE [--data TABLE --smiles COLUMN --count 2000]

Without --data the molecules come from examples/solubility. Both arms process the same molecules
with the same settings and store the results in Parquet. Ray's workers start before the clock does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.preparation.stage_cache import CHUNK, StageCache
from blindsum.platform.data.preparation.recipe import Structures
from blindsum.platform.data.preparation.stages import Standardise
from blindsum.platform.data.reading import read_table


def molecules(data: Path | None, column: str, count: int) -> list[str]:
    """Return distinct SMILES in mixed order, so that slow ones are spread evenly."""
    if data:
        tables = [read_table(data)]
    else:
        folder = Path(__file__).parent.parent / "examples" / "solubility" / "data"
        tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    texts = {t for table in tables for t in table[column].to_pylist() if t}
    return sorted(texts, key=hash)[:count]


def alone(stage: Standardise, texts: list[str], folder: Path) -> float:
    """Return the seconds it takes in this process."""
    started = time.perf_counter()
    parts = [stage.compute(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    pq.write_table(pa.concat_tables(parts), folder / "alone.parquet")
    return time.perf_counter() - started


def over_ray(stage: Standardise, texts: list[str], folder: Path, workers: int) -> float:
    """Return the seconds it takes with Ray, whose workers have started before."""
    warm = StageCache(stage, folder / "warm")
    warm.run(["C" * n for n in range(1, 1 + CHUNK * workers)], workers, lambda _: None)
    cache = StageCache(stage, folder)
    started = time.perf_counter()
    cache.run(cache.missing(texts), workers, lambda _: None)
    found = cache.table(texts)
    seconds = time.perf_counter() - started
    if (
        found["structure"].to_pylist()
        != pq.read_table(folder / "alone.parquet")["structure"].to_pylist()
    ):
        raise SystemExit("the two arms have different results")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--data", type=Path, help="a table of molecules")
    parser.add_argument("--smiles", default="smiles", help="the table's column of SMILES")
    parser.add_argument("--count", type=int, default=2000, help="how many molecules to use")
    given = parser.parse_args()
    texts, workers = molecules(given.data, given.smiles, given.count), os.cpu_count() or 1
    figures: dict[str, object] = {"molecules": len(texts), "workers": workers, "arms": {}}
    arms: dict[str, dict[str, float]] = {}
    with ray_session():
        for name, settings in (
            ("standard", Structures()),
            ("standard with tautomers", Structures(tautomer=True)),
        ):
            stage = Standardise(settings)
            with tempfile.TemporaryDirectory() as folder:
                one = alone(stage, texts, Path(folder))
                ray = over_ray(stage, texts, Path(folder), workers)
            arms[name] = {
                "per_second_one_process": len(texts) / one,
                "per_second_ray": len(texts) / ray,
                "ratio": one / ray,
            }
            print(
                f"{name}: {len(texts) / one:.0f} per second in one process, {len(texts) / ray:.0f} "
                f"with Ray and {workers} workers: {one / ray:.2f} times as fast"
            )
    figures["arms"] = arms
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

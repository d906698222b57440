"""How near the estimate of what silos have in common comes, and whether its interval holds.

Three silos with some identifiers in common, summed as the silos of a job of statistics sum, without
ciphertext. Beside it the usual estimate: the squared norm of a sketch of the best size (Alon,
Matias and Szegedy, STOC 1996), under the same noise.

    python benchmarks/overlap.py --json build/overlap.json
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from statistics_jobs import SILOS, statistics_job

from blindsum.platform.job.schema import Job
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.overlap import Distinct, Hashed, Lookup, Sketch
from blindsum.platform.training.statistics.parts import Found


def job(epsilon: float, records: int) -> Job:
    """Return a job of one column, with bounds, and of overlaps."""
    model = {"bounds": {"x": {"low": 0.0, "high": 1.0}}, "overlap": {}}
    return statistics_job("overlap", {"x": {}}, model, epsilon, records)


def identifiers(
    records: int, common: int, pairwise: bool, random: np.random.Generator
) -> tuple[list[Hashed], int]:
    """Return each silo's identifiers, and the number of pairs of silos that share one.

    Args:
        pairwise: whether only the first two silos share them, or all three.
    """
    shared, found = _draws(common, random), []
    for i in range(len(SILOS)):
        has = not pairwise or i < 2
        alone = _draws(records - common if has else records, random)
        found.append(Hashed(np.concatenate([shared, alone]) if has else alone))
    return found, common * (1 if pairwise else 3)


def _draws(count: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 2**63, count).astype(np.uint64)


def estimate(
    describing: Describing, silos: list[Hashed], random: np.random.Generator
) -> tuple[float, float, float]:
    """Return the estimate, its deviation, and how many times as many pairs there can be."""
    sketch = next(part for part in describing.rounds[0] if isinstance(part, Sketch))
    lookup = next(part for part in describing.rounds[1] if isinstance(part, Lookup))
    distinct = next(part for part in describing.rounds[1] if isinstance(part, Distinct))
    found = Found({}, {})
    for part, round in ((sketch, 1), (distinct, 2), (lookup, 2)):
        deviation = describing.noise / describing.weight(part, round)
        total = sum(part.collect_identifiers(one, found) for one in silos)
        total = total + random.normal(0, deviation, part.size)
        found = Found({**found.sums, part.name: total}, {**found.deviations, part.name: deviation})
    return lookup.pairs(found, len(SILOS))


def squared_norm(
    noise: float, silos: list[Hashed], distinct: int, random: np.random.Generator
) -> float:
    """Return the estimate by a sketch whose size has the least variance: F2 / S^2."""
    buckets = 1 << max(6, round(math.log2(max(distinct / noise**2, 1.0))))
    total = random.normal(0, noise, buckets)
    for one in silos:
        at, signs = one.places(buckets)
        total += np.bincount(at, signs, buckets)
    return (float(total @ total) - buckets * noise**2 - distinct) / 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=60)
    options, random, rows = parser.parse_args(), np.random.default_rng(0), []
    for epsilon in (1.0, 3.0):
        for records in (300, 1000, 3000, 10_000, 30_000):
            one = job(epsilon, records)
            describing = Describing(one, one.model)  # type: ignore[arg-type]
            sketch = next(p for p in describing.rounds[0] if isinstance(p, Sketch))
            for pairwise in (True, False):
                errors, others, widths, covered = [], [], [], 0
                for _ in range(options.runs):
                    silos, truth = identifiers(records, records // 5, pairwise, random)
                    pairs, deviation, times = estimate(describing, silos, random)
                    errors.append(pairs - truth)
                    widths.append(1.96 * deviation)
                    low, high = pairs - widths[-1], (pairs + widths[-1]) * times
                    covered += low <= truth <= high
                    others.append(
                        squared_norm(sketch.noise, silos, sum(map(len, silos)), random) - truth
                    )
                row = {
                    "epsilon": epsilon,
                    "records": records,
                    "silos that share": 2 if pairwise else 3,
                    "pairs": truth,
                    "buckets": sketch.size,
                    "bias": float(np.mean(errors)),
                    "deviation": float(np.std(errors)),
                    "half width": float(np.mean(widths)),
                    "covered": covered / options.runs,
                    "deviation of the squared norm": float(np.std(others)),
                }
                rows.append(row)
                print(*(f"{key} {value:.4g}" for key, value in row.items()), sep="; ", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Measure how near noised statistics come to the exact ones, and whether their intervals hold.

    python benchmarks/describe.py examples/heart/job.yaml --json build/describe.json

The job of statistics that `blindsum describe` runs, on the silos' own tables, at several budgets.
Parts, plan and noise are the product's own; nothing is encrypted or charged. The reference arm is
the same job without privacy, and for speed pandas on all records in one place. A figure counts as
covered if its interval holds the exact one. JSON: {records, columns, seconds, pandas_seconds,
{epsilon}.{figure}.{covered,figures,half_width}}; half widths are medians, of means and quantiles in
deviations of their column, of counts in records.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from blindsum.pipelines.comparison.baseline import member_of
from blindsum.pipelines.statistics.derived import derived
from blindsum.platform.data.records import dense
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.figures import Figure, Figures, figures_of
from blindsum.platform.training.sums import SumsOptimizer


def described(job_file: JobFile, members: list[Any], seed: int) -> Figures:
    """Return the figures of one run, with the noise of all silos added at once."""
    job = job_file.job
    describing = Describing(job, job.model)  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    silos = [
        describing.trainer(one.data, plan(job, one.name), np.random.default_rng([seed, i]))
        for i, one in enumerate(members)
    ]
    vector, optimizer = get_parameters(model_of(job)), SumsOptimizer(describing, job)
    own, count = plan(job, job.roster[0]), len(members)
    for round in range(1, job.training.rounds + 1):
        updates = [silo.train(vector, 1.0, round) for silo in silos]
        total = sum(update.values for update in updates)
        if own and own.share:
            total = total + random.normal(0, own.share * math.sqrt(count), total.shape)
        vector = optimizer.apply(vector, total * updates[0].unit / count, round, count)
    return figures_of(describing, vector)


def compared(noised: Figures, exact: Figures) -> list[tuple[str, bool, float]]:
    """Return each figure's kind, whether its interval covers the exact one, and half its width."""
    rows = list[tuple[str, bool, float]]()

    def add(kind: str, figure: Figure, truth: Figure, unit: float = 1.0) -> None:
        if math.isfinite(figure.value):
            inside = figure.low <= truth.high and truth.low <= figure.high
            rows.append((kind, inside, (figure.high - figure.low) / 2 / unit))

    add("records", noised.records, exact.records)
    for one, true in zip(noised.numbers, exact.numbers, strict=True):
        unit = true.deviation.value or 1.0
        add("missing", one.missing, true.missing)
        add("mean", one.mean, true.mean, unit)
        add("deviation", one.deviation, true.deviation, unit)
        for share, figure in one.quantiles.items():
            add("quantile", figure, true.quantiles[share], unit)
    for a, b in zip(noised.categories, exact.categories, strict=True):
        for level, figure in a.levels.items():
            add("category", figure, b.levels[level])
    if noised.correlations and exact.correlations:
        names = list(exact.correlations.names)
        for i, first in enumerate(noised.correlations.names):
            for j, second in enumerate(noised.correlations.names[:i]):
                if first not in names or second not in names:
                    continue
                r = noised.correlations.matrix[i][j]
                half = 1.96 * noised.correlations.deviations[i][j]
                truth = exact.correlations.matrix[names.index(first)][names.index(second)]
                if math.isfinite(r):
                    rows.append(("correlation", abs(r - truth) <= half, half))
    return rows


def measure(path: Path, epsilons: list[float], seeds: int) -> dict[str, Any]:
    """Return all figures for one job file."""
    exactly = derived(load_job(path, ("privacy={noise: none}",)))
    members = [member_of(exactly, name) for name in exactly.job.roster]
    started = time.perf_counter()
    exact = described(exactly, members, 0)
    seconds = time.perf_counter() - started
    folds = [fold for one in members for fold in (one.data.train, one.data.test)]
    table = pd.DataFrame(np.concatenate([dense(fold.stored) for fold in folds]))
    started = time.perf_counter()
    table.describe(), table.corr()
    found: dict[str, Any] = {
        "records": exact.records.value,
        "columns": len(exact.numbers) + len(exact.categories),
        "seconds": round(seconds, 3),
        "pandas_seconds": round(time.perf_counter() - started, 3),
    }
    for epsilon in epsilons:
        job_file = derived(load_job(path), epsilon)
        rows = defaultdict[str, list[tuple[bool, float]]](list)
        for seed in range(seeds):
            for kind, inside, half in compared(described(job_file, members, seed), exact):
                rows[kind].append((inside, half))
        found[f"{epsilon:g}"] = {
            kind: {
                "covered": round(float(np.mean([inside for inside, _ in some])), 4),
                "figures": len(some),
                "half_width": float(f"{np.median([half for _, half in some]):.3g}"),
            }
            for kind, some in rows.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("job", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--seeds", type=int, default=40)
    given = parser.parse_args()
    found = measure(given.job, given.epsilon, given.seeds)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

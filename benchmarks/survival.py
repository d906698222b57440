"""How often the intervals of survival under differential privacy cover the truth.

Three silos' whole-month times, exponential with a mean of 8 months, censored evenly between 2 and
30, in two groups that do not differ and 20 bins; the only columns of a job of statistics.

    python benchmarks/survival.py --json build/survival.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from statistics_jobs import statistics_job

from blindsum.platform.job.schema import Job
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.survival import CENSORED, EVENT
from blindsum.platform.training.statistics.survival_figures import survival_figures

END, MEAN = 20, 8.0


def job(epsilon: float, records: int) -> Job:
    """Return a job of survival."""
    columns = {"months": {}, "arm": {"categories": ["a", "b"]}}
    edges = [float(i + 1) for i in range(END)]
    survival = {"time": "months", "event": "y", "groups": "arm", "edges": edges}
    return statistics_job("survival", columns, {"survival": survival}, epsilon, records)


def counts(records: int, random: np.random.Generator) -> np.ndarray:
    """Return events and censored records of each group and bin, [groups, 2, bins]."""
    times, censored = random.exponential(MEAN, records), random.uniform(2, 30, records)
    times, censored = np.ceil(times), np.ceil(censored)
    last = np.minimum(np.minimum(times, censored), END).astype(int)
    kind = np.where((times <= censored) & (times <= END), EVENT, CENSORED)
    found = np.zeros((2, 2, END))
    np.add.at(found, (random.integers(0, 2, records), kind, last - 1), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=300)
    options, random, rows = parser.parse_args(), np.random.default_rng(0), []
    ends = np.arange(1.0, END + 1)
    truth = np.exp(-ends / MEAN)
    median, mean = np.ceil(MEAN * np.log(2)), np.append(1.0, truth[:-1]).sum()
    for epsilon in (1.0, 3.0):
        for records in (300, 1000, 3000):
            one = job(epsilon, records)
            describing = Describing(one, one.model)  # type: ignore[arg-type]
            (events,) = (part for part in describing.rounds[0] if part.name == "events")
            noise = describing.noise / describing.weight(events, 1)
            curves, medians, means, widths, rejected = [], [], [], [], 0
            for _ in range(options.runs):
                noised = counts(3 * records, random) + random.normal(0, noise, events.shape)
                found = survival_figures(noised, noise, ends, ("a", "b"), random)
                for curve in found.curves:
                    low, high = np.array(curve.low), np.array(curve.high)
                    curves.append((low <= truth) & (truth <= high))
                    widths.append(high - low)
                    medians.append(curve.median.low <= median <= curve.median.high)
                    means.append(curve.mean.low <= mean <= curve.mean.high)
                rejected += found.log_rank is not None and found.log_rank.p < 0.05
            row = {
                "epsilon": epsilon,
                "records": records,
                "noise": noise,
                "width at 10": float(np.mean(widths, axis=0)[9]),
                "survival": float(np.mean(curves)),
                "median": float(np.mean(medians)),
                "mean": float(np.mean(means)),
                "rejected": rejected / options.runs,
            }
            rows.append(row)
            print(*(f"{key} {value:.3g}" for key, value in row.items()), sep="; ", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

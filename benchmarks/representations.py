"""Measure which features of molecules survive differential privacy.

    python benchmarks/representations.py --data tox21.csv.gz --tuning ames.csv.gz \
        --tuning-label mutagenic --json build/representations.json

Three silos with scaffolds of their own, shared noise, delta 1e-4; the features, models and learning
rates of `blindsum features`, and its trainer. A fifth of the scaffolds is held out. For each
epsilon and each of the features, the setting is chosen on the tuning table alone, with as many
training records a silo as the table under test has, and then trained on the table under test once
for each seed. A seed is another division of the scaffolds among folds and silos, the same for all
features; noise is never seeded. Without privacy the setting is chosen on another division of the
table under test itself, which favours these arms:

    none      the federation without privacy
    alone     each silo on its own records, without privacy; the mean over silos, on the same
              held-out records

JSON: {arm}.{features}.{mean,se,gain,gain_se,setting}; gain is over ecfp-2048, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from blindsum.pipelines.selection.candidates import (
    REPRESENTATIONS,
    Plan,
    Setting,
    settings_of,
)
from blindsum.pipelines.selection.public_records import PublicRecords, Rows, read_public
from blindsum.pipelines.selection.trial import dealt, score, trained

ARMS: dict[str, float | None] = {"8": 8.0, "3": 3.0, "1": 1.0, "none": None, "alone": None}
SILOS, DELTA, REFERENCE = 3, 1e-4, "ecfp-2048"
console = Console()


class Division:
    """One division of a table's scaffolds: a fifth held out, the others among the silos."""

    def __init__(self, records: PublicRecords, seed: int) -> None:
        self.records, self.seed = records, seed
        self.held_out = records.parts(f"held-out-{seed}", 5) == 0

    def score(self, setting: Setting, plan: Plan) -> float:
        """Train the federation once."""
        return self._scored(dealt(self.records, ~self.held_out, plan, self.seed), setting, plan)

    def alone(self, setting: Setting, plan: Plan) -> float:
        """Train each silo alone; returns the mean over silos."""
        silos = dealt(self.records, ~self.held_out, plan, self.seed)
        return float(np.mean([self._scored([own, own], setting, plan) for own in silos]))

    def _scored(self, silos: list[Rows], setting: Setting, plan: Plan) -> float:
        # A silo alone is two that hold the same records: without noise, their mean is its own.
        plan = replace(plan, silos=len(silos), tasks=self.records.task_sections)
        model = trained(self.records, silos, setting, plan, self.seed)
        held_out = self.records.fold(setting.representation, self.held_out)
        return score(model, held_out, self.records)


def error(values: np.ndarray) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def measured(
    tuning: PublicRecords, tested: PublicRecords, names: list[str], arms: list[str], seeds: int
) -> dict[str, Any]:
    each = round(0.8 * len(tested) / SILOS)
    tree = dict[str, Any]()
    divisions = [Division(tested, seed) for seed in range(1, seeds + 1)]
    for arm in arms:
        epsilon = ARMS[arm]
        chosen_on = Division(tuning if epsilon else tested, 0)
        plan = Plan(silos=SILOS, records=None, epsilon=epsilon, delta=DELTA)
        like = replace(plan, records=each)
        scores, settings = dict[str, np.ndarray](), dict[str, Setting]()
        for name in names:
            candidates = settings_of([name], epsilon)
            score_of = Division.alone if arm == "alone" else Division.score
            found = [score_of(chosen_on, one, like) for one in candidates]
            settings[name] = candidates[int(np.argmax(found))]
            scores[name] = np.array([score_of(one, settings[name], plan) for one in divisions])
            console.print(arm, settings[name], np.round(found, 3), np.round(scores[name], 3))
        tree[arm] = {
            name: {
                "mean": float(scores[name].mean()),
                "se": error(scores[name]),
                "gain": float((scores[name] - scores[REFERENCE]).mean()),
                "gain_se": error(scores[name] - scores[REFERENCE]),
                "setting": settings[name].name,
            }
            for name in names
        }
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a table of molecules and labels")
    parser.add_argument("--label", action="append", default=[], help="default: all of 0 and 1")
    parser.add_argument("--tuning", type=Path, required=True, help="another one")
    parser.add_argument("--tuning-label", action="append", default=[])
    parser.add_argument("--only", action="append", default=[], help="features to measure")
    parser.add_argument("--arm", action="append", default=[], choices=ARMS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    names = list(dict.fromkeys([*(given.only or REPRESENTATIONS), REFERENCE]))
    tuning, tested = (
        read_public(path, "smiles", labels, names)
        for path, labels in ((given.tuning, given.tuning_label), (given.data, given.label))
    )
    console.print(f"{len(tested)} records under test, {time.monotonic() - started:.0f} s to read")
    tree = measured(tuning, tested, names, given.arm or list(ARMS), given.seeds)
    shown = Table(title="score (standard error over seeds)", box=None)
    for heading in ("features", *tree):
        shown.add_column(heading)
    for name in names:
        shown.add_row(
            name, *(f"{a[name]['mean']:.3f} ({a[name]['se']:.3f})" for a in tree.values())
        )
    console.print(shown)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

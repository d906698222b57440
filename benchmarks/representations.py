"""Measure which features of molecules survive differential privacy.

    python benchmarks/representations.py --data tox21.csv.gz --tuning ames.csv.gz:mutagenic \
        --json build/representations.json

Three silos with scaffolds of their own, shared noise, delta 1e-4; the features, models and learning
rates of `blindsum features`, and its trainer. A fifth of the scaffolds is held out. For each
epsilon and each of the features, the setting is chosen on the tuning tables alone, by its mean over
three divisions of each, with the noise of as many training records a silo as the table under test
has: first model and learning rate, and then, as `blindsum plan` would, more rounds at a lower rate.
Then it is trained on the table under test once for each seed. A seed is another division of the
scaffolds among folds and silos, the same for all features; noise is never seeded. Without privacy
the setting is chosen on three other divisions of the table under test itself, which favours these
arms:

    none      the federation without privacy
    alone     each silo on its own records, without privacy; the mean over silos, on the same
              held-out records

JSON: {arm}.{features}.{mean,se,gain,gain_se,setting,tuning,scores}; gain is over ecfp-2048, paired
by seed, tuning the score by which the setting was chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
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
SILOS, TUNING, DELTA, REFERENCE = 3, 3, 1e-4, "ecfp-2048"
LONGER = ((120, 2), (200, 2))
"""Rounds that are tried too, and by how much the learning rate is divided."""

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


@dataclass(frozen=True)
class Tuning:
    """How a setting is chosen: its score is a mean over divisions of other records."""

    divisions: list[Division]
    plan: Plan
    alone: bool

    def scores(self, settings: list[Setting]) -> list[float]:
        return [float(np.mean([self.score(one, by) for one in self.divisions])) for by in settings]

    def score(self, division: Division, setting: Setting) -> float:
        return (division.alone if self.alone else division.score)(setting, self.plan)

    def chosen(self, name: str) -> tuple[Setting, float]:
        """Return the best setting of a representation, and its score."""
        candidates = settings_of([name], self.plan.epsilon)
        found = self.scores(candidates)
        if self.plan.epsilon:
            best = candidates[int(np.argmax(found))]
            longer = [
                replace(best, rounds=rounds, learning_rate=best.learning_rate / slower)
                for rounds, slower in LONGER
            ]
            candidates, found = candidates + longer, found + self.scores(longer)
        return candidates[int(np.argmax(found))], max(found)


def measured(
    tuning: list[PublicRecords],
    tested: PublicRecords,
    names: list[str],
    arms: list[str],
    seeds: int,
) -> dict[str, Any]:
    tree, divisions = dict[str, Any](), [Division(tested, seed) for seed in range(1, seeds + 1)]
    for arm in arms:
        epsilon = ARMS[arm]
        others = [
            Division(one, seeds + 1 + seed)
            for one in (tuning if epsilon else [tested])
            for seed in range(TUNING)
        ]
        plan = Plan(silos=SILOS, records=None, epsilon=epsilon, delta=DELTA)
        like = replace(plan, records=round(0.8 * len(tested) / SILOS))
        by, scores = Tuning(others, like, arm == "alone"), dict[str, np.ndarray]()
        under_test = replace(by, plan=plan)
        settings = dict[str, tuple[Setting, float]]()
        for name in names:
            settings[name] = setting, tuned = by.chosen(name)
            scores[name] = np.array([under_test.score(one, setting) for one in divisions])
            console.print(arm, name, setting.name, f"{tuned:.3f}", np.round(scores[name], 3))
        tree[arm] = {
            name: {
                "mean": float(scores[name].mean()),
                "se": error(scores[name]),
                "gain": float((scores[name] - scores[REFERENCE]).mean()),
                "gain_se": error(scores[name] - scores[REFERENCE]),
                "setting": settings[name][0].name,
                "tuning": settings[name][1],
                "scores": scores[name].tolist(),
            }
            for name in names
        }
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a table of molecules and labels")
    parser.add_argument("--label", action="append", default=[], help="default: all of 0 and 1")
    parser.add_argument(
        "--tuning", action="append", required=True, help="another one, PATH[:LABEL[,LABEL]]"
    )
    parser.add_argument("--only", action="append", default=[], help="features to measure")
    parser.add_argument("--arm", action="append", default=[], choices=ARMS, help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    names = list(dict.fromkeys([*(given.only or REPRESENTATIONS), REFERENCE]))
    tested = read_public(given.data, "smiles", given.label, names)
    tuning = []
    for one in given.tuning:
        path, _, labels = one.partition(":")
        tuning.append(read_public(Path(path), "smiles", labels.split(",") if labels else [], names))
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

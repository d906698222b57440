"""Measure regressions of potency under privacy: censored values, kinase panels, activity cliffs.

    python benchmarks/affinities.py --data kinase10_chembl28.csv.gz --json build/kinases.json
    python benchmarks/affinities.py --data moleculeace30_chembl29.csv.gz --json build/cliffs.json

A table with a column `smiles` and columns of potencies, each -log10(mol/L). Molecules are divided
by scaffold: a fifth is held out, the others belong to three silos. Features are kernel components,
the model has one hidden layer of 64 units and an output for each column, all rounds are one step at
sampling rate 0.5. Each arm is trained once for each seed, which is another division.

    none, 3, 1    the federation without privacy, and with shared noise at that epsilon, delta 1e-5
    alone         each silo by itself, without privacy; the mean over silos

and labels of the training records in three ways:

    exact     as they are
    bounds    values below `--floor` are only known to lie below it, as screens report them ("<")
    without   those values are left out, as tables without qualifiers have it

Figures are on the held-out records' true values, as means over columns: R2, RMSE, and
`rmse_cliffs`, the RMSE over molecules on a cliff: one other molecule of the column has a Tanimoto
similarity of at least 0.8 (ECFP, 1,024 bits) and a potency ten times larger or smaller, or more.

JSON: {labels}.{arm}.{r2,rmse,rmse_cliffs}.{mean,se}, records, cliffs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rich.console import Console
from rich.table import Table

from blindsum.pipelines.selection.candidates import Plan, Setting
from blindsum.pipelines.selection.public_records import PublicRecords, Rows, read_public
from blindsum.pipelines.selection.trial import dealt, trained
from blindsum.platform.data.descriptors import too_large
from blindsum.platform.data.molecules import read_molecule
from blindsum.platform.data.reading import read_table

FEATURES, SILOS, DELTA = "kernel-128", 3, 1e-5
ARMS: dict[str, tuple[float | None, Setting]] = {
    "none": (None, Setting(FEATURES, 64, 1.0, 120)),
    "3": (3.0, Setting(FEATURES, 64, 1.0, 120)),
    "1": (1.0, Setting(FEATURES, 64, 1.0, 120)),
    "alone": (None, Setting(FEATURES, 64, 0.3, 120)),
}
HOWS = ("exact", "bounds", "without")
LEAST_HELD_OUT, SIMILAR, TENFOLD = 20, 0.8, 1.0
console = Console()


def censored(records: PublicRecords, floor: float, how: str) -> PublicRecords:
    """Return the records with their low values as bounds, or without them."""
    labels = records.labels.copy()
    for column, task in enumerate(records.tasks.values()):
        least = (floor - task.center) / task.scale
        low = labels[:, 0, column] < least
        labels[low, 0, column] = least if how == "bounds" else np.nan
        labels[low, 1, column] = -1.0 if how == "bounds" else 0.0
    return replace(records, labels=labels)


def is_usable(smiles: str) -> bool:
    """Whether a molecule has kernel features."""
    molecule = read_molecule(smiles)
    return molecule is not None and not too_large(molecule)


def cliffs(records: PublicRecords, smiles: list[str]) -> np.ndarray:
    """Return which values are those of a molecule on a cliff, bool [records, tasks]."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = [generator.GetFingerprint(read_molecule(one)) for one in smiles]
    found = np.zeros(records.labels[:, 0].shape, np.bool_)
    for column, task in enumerate(records.tasks.values()):
        values = records.labels[:, 0, column] * task.scale
        known = np.flatnonzero(~np.isnan(values))
        for place, i in enumerate(known[:-1]):
            others = known[place + 1 :]
            alike = np.array(DataStructs.BulkTanimotoSimilarity(bits[i], [bits[j] for j in others]))
            apart = (alike >= SIMILAR) & (np.abs(values[others] - values[i]) >= TENFOLD)
            found[i, column] |= apart.any()
            found[others[apart], column] = True
    return found


def figures(
    said: np.ndarray, records: PublicRecords, rows: Rows, on: np.ndarray
) -> Iterator[float]:
    """Yield R2, RMSE and RMSE on cliffs: means over the columns, in the columns' unit."""
    each = []
    for column, task in enumerate(records.tasks.values()):
        true = records.labels[rows, 0, column]
        known = ~np.isnan(true)
        if known.sum() < LEAST_HELD_OUT:
            continue
        wrong = (said[known, column] - true[known]) * task.scale
        there = on[rows, column][known]
        r2 = 1 - np.mean(wrong**2) / (np.var(true[known]) * task.scale**2)
        of_cliffs = np.sqrt(np.mean(wrong[there] ** 2)) if there.any() else np.nan
        each.append((r2, np.sqrt(np.mean(wrong**2)), of_cliffs))
    yield from np.nanmean(np.array(each), axis=0)


def outputs(records: PublicRecords, rows: Rows, silos: list[Rows], arm: str, seed: int) -> Any:
    epsilon, setting = ARMS[arm]
    plan = Plan(silos=len(silos), records=None, epsilon=epsilon, delta=DELTA)
    plan = replace(plan, tasks=records.task_sections)
    model = trained(records, silos, setting, plan, seed)
    with torch.no_grad():
        return records.fold(FEATURES, rows).outputs(model).numpy()


def measured(
    records: PublicRecords, on: np.ndarray, floor: float, seeds: int, hows: list[str]
) -> dict[str, dict[str, Any]]:
    tree = dict[str, dict[str, Any]]()
    for how in hows:
        labelled = records if how == "exact" else censored(records, floor, how)
        for arm in ARMS:
            found = []
            for seed in range(1, seeds + 1):
                rows = records.parts(f"held-out-{seed}", 5) == 0
                usable = ~rows & ~np.isnan(labelled.labels[:, 0]).all(1)
                plan = Plan(silos=SILOS, records=None, epsilon=None, delta=DELTA)
                silos = dealt(labelled, usable, plan, seed)
                # A silo alone is two that hold the same records: their mean is its own.
                sets = [[own, own] for own in silos] if arm == "alone" else [silos]
                several = [
                    list(figures(outputs(labelled, rows, one, arm, seed), records, rows, on))
                    for one in sets
                ]
                found.append(np.mean(several, axis=0))
            values = np.array(found)
            error = values.std(0, ddof=1) / np.sqrt(seeds) if seeds > 1 else 0 * values[0]
            names = ("r2", "rmse", "rmse_cliffs")
            tree.setdefault(how, {})[arm] = {
                name: {"mean": float(m), "se": float(e)}
                for name, m, e in zip(names, values.mean(0), error, strict=True)
            }
            console.print(how, arm, np.round(values.mean(0), 3), np.round(error, 3))
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--floor", type=float, default=6.0, help="below it, values are bounds")
    parser.add_argument("--labels", action="append", choices=HOWS, help="default: all three")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, table = time.monotonic(), read_table(given.data, ["smiles"])
    labels = [name for name in table.column_names if name != "smiles"]
    records = read_public(given.data, "smiles", labels, [FEATURES])
    smiles = [text for text in table["smiles"].to_pylist() if is_usable(text)]
    if len(smiles) != len(records):
        parser.error("rows without any label are not supported here: remove them first")
    on = cliffs(records, smiles)
    console.print(f"{len(records)} records, {int(on.sum())} values on cliffs")
    tree: dict[str, Any] = measured(records, on, given.floor, given.seeds, given.labels or [*HOWS])
    shown = Table(title="mean over columns (standard error over divisions)", box=None)
    for heading in ("labels", "arm", "R2", "RMSE", "RMSE on cliffs"):
        shown.add_column(heading)
    for how, arms in tree.items():
        for arm, own in arms.items():
            shown.add_row(how, arm, *(f"{v['mean']:.3f} ({v['se']:.3f})" for v in own.values()))
    console.print(shown)
    console.print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        tree |= {"records": len(records), "cliffs": int(on.sum())}
        given.json.write_text(json.dumps(tree, indent=1))


if __name__ == "__main__":
    main()

"""From measurements and standard structures to labels: one record for each structure.

A structure measured several times is one record: what differential privacy protects is then the
structure, not one of its measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from blindsum.platform.preparation.recipe import AssayTask, Quorum
from blindsum.platform.preparation.tables import Dropped, Tables


@dataclass
class Report:
    """What was kept and what was dropped and why, in counts alone. For the silo's own eyes."""

    compounds: int = 0
    merged_compounds: int = 0
    measurements: int = 0
    records: int = 0
    labels: int = 0
    shared_tasks: int = 0
    private_tasks: int = 0
    dropped_compounds: Dropped = field(default_factory=Counter)
    dropped_measurements: Dropped = field(default_factory=Counter)
    dropped_tasks: Dropped = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """By name; reasons that nothing was dropped for are left out."""
        return {
            name: {k: v for k, v in value.items() if v} if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }


def structures_of(tables: Tables, standard: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Compounds with a structure: columns compound, structure, and name.

    Args:
        standard: columns text (SMILES), structure and dropped, as `Standardise` gives them.
    """
    compounds = tables.compounds
    report.compounds = len(compounds)
    empty = (compounds["smiles"] == "") | (compounds["compound"] == "")
    report.dropped_compounds["no structure or name"] += int(empty.sum())
    compounds = compounds[~empty].merge(standard, "left", left_on="smiles", right_on="text")
    bad = compounds["structure"].isna()
    report.dropped_compounds.update(compounds.loc[bad, "dropped"].tolist())
    compounds = compounds[~bad].drop_duplicates(["compound", "structure"])
    several = compounds["compound"].duplicated(keep=False)
    report.dropped_compounds["several structures for one name"] += int(several.sum())
    kept = compounds[~several]
    report.merged_compounds = int(kept["structure"].duplicated().sum())
    name = kept["name"] if "name" in kept else kept["compound"]
    return kept.assign(name=name)[["compound", "structure", "name"]]


def labels_of(
    tables: Tables, compounds: pd.DataFrame, recipe_tasks: Mapping[str, AssayTask],
    quorum: Quorum, report: Report,
) -> pd.DataFrame:  # fmt: skip
    """One row for each structure and task: columns structure, task, value, side."""
    measured, dropped = tables.measurements, report.dropped_measurements
    report.measurements = len(measured)

    def keep(which: pd.Series, reason: str) -> None:
        nonlocal measured
        dropped[reason] += int((~which).sum())
        measured = measured[which]

    keep(measured["assay"].isin(list(tables.of_assay)), "of no task")
    keep(measured["value"].notna(), "no number")
    keep(measured["compound"].isin(compounds["compound"]), "of no usable compound")
    measured = measured.merge(compounds[["compound", "structure"]], on="compound")
    feeds = pd.DataFrame(
        [(assay, task) for assay, tasks in tables.of_assay.items() for task in tasks],
        columns=["assay", "task"],
    )
    measured = measured.merge(feeds, on="assay")
    parts = []
    for name, of_task in measured.groupby("task", sort=False):
        found = _of_task(of_task, tables.tasks[str(name)], dropped)
        if _below(found, tables.tasks[str(name)], quorum):
            shared = name in recipe_tasks
            report.dropped_tasks[f"below quorum, {'shared: left empty' if shared else 'own'}"] += 1
            dropped["of a task below its quorum"] += len(found)
            continue
        parts.append(found)
    columns = ["structure", "task", "value", "side"]
    labels = (
        pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    )
    with_labels, with_measurements = set(labels["task"]), set(measured["task"])
    never = set(tables.tasks) - with_measurements
    report.dropped_tasks["without a measurement"] += len(never)
    report.shared_tasks = sum(name in with_labels for name in recipe_tasks)
    report.private_tasks = len(with_labels) - report.shared_tasks
    report.records, report.labels = labels["structure"].nunique(), len(labels)
    return labels


def _of_task(measured: pd.DataFrame, task: AssayTask, dropped: Dropped) -> pd.DataFrame:
    low = -np.inf if task.low is None else task.low
    high = np.inf if task.high is None else task.high
    credible = measured["value"].between(low, high)
    dropped["out of the credible range"] += int((~credible).sum())
    measured, before = measured[credible], dropped.total()
    if task.kind == "regression":
        found = _numbers(measured, dropped)
    else:
        found = _classes(measured, task.threshold, dropped)
    lost = dropped.total() - before
    dropped["one label for several of a structure"] += len(measured) - lost - len(found)
    return found


def _classes(measured: pd.DataFrame, threshold: float | None, dropped: Dropped) -> pd.DataFrame:
    """0 or 1. A number beyond a threshold by its qualifier alone is known; one on its side is not."""
    value, side = measured["value"], measured["side"]
    if threshold is None:
        known = value.isin((0, 1)) & (side == 0)
        dropped["neither 0 nor 1"] += int((~known).sum())
        label = value
    else:
        label = (value >= threshold).astype(float)
        # "> 5" with a threshold of 6 may be either; so may "< 6.5".
        known = (side == 0) | ((side > 0) & (label == 1)) | ((side < 0) & (value <= threshold))
        label = label.where(side >= 0, 0.0)
        dropped["on both sides of the threshold"] += int((~known).sum())
    found = measured.assign(value=label, side=0.0)[known]
    classes = found.groupby("structure")["value"].transform("nunique")
    dropped["contradicted by another"] += int((classes > 1).sum())
    return found[classes == 1].drop_duplicates("structure")


def _numbers(measured: pd.DataFrame, dropped: Dropped) -> pd.DataFrame:
    """The median of what was measured exactly; else the tightest bound, if all are on one side."""
    exact = measured[measured["side"] == 0]
    medians = exact.groupby(["structure", "task"], as_index=False)["value"].median()
    bounds = measured[(measured["side"] != 0) & ~measured["structure"].isin(exact["structure"])]
    sides = bounds.groupby("structure")["side"].transform("nunique")
    dropped["contradicted by another"] += int((sides > 1).sum())
    bounds = bounds[sides == 1]
    above = bounds[bounds["side"] > 0].groupby(["structure", "task"], as_index=False)["value"].max()
    below = bounds[bounds["side"] < 0].groupby(["structure", "task"], as_index=False)["value"].min()
    return pd.concat(
        [medians.assign(side=0.0), above.assign(side=1.0), below.assign(side=-1.0)],
        ignore_index=True,
    )


def _below(found: pd.DataFrame, task: AssayTask, quorum: Quorum) -> bool:
    if task.kind == "binary":
        positive = int((found["value"] == 1).sum())
        return min(positive, len(found) - positive) < quorum.classes
    exact = int((found["side"] == 0).sum())
    return len(found) < quorum.values or exact < quorum.uncensored

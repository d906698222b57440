"""Builds labels from measurements and standard structures, with one record for each structure.

A structure that was measured several times is one record, so that differential privacy protects the
structure, not one of its measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from blindsum.platform.data.preparation.conversion import FAULTS, OTHER_UNIT, converted
from blindsum.platform.data.preparation.recipe import AssayTask, Quorum
from blindsum.platform.data.preparation.relations import ABOUT
from blindsum.platform.data.preparation.tables import Dropped, Tables
from blindsum.platform.data.task_labels import MAX_SCALED


@dataclass
class Report:
    """The numbers of kept and of dropped items, with the reasons. Private to the silo."""

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
    dropped_units: Dropped = field(default_factory=Counter)
    """The number of measurements in each unit that cannot be converted."""
    rejected: list[pd.DataFrame] = field(default_factory=list, repr=False)
    """Dropped measurements: columns row, assay, reason. Not in `as_dict`."""
    rejected_compounds: list[pd.DataFrame] = field(default_factory=list, repr=False)
    """Dropped compounds: columns row, reason. Not in `as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts by name, without reasons for which nothing was dropped."""
        return {
            name: {k: v for k, v in value.items() if v} if isinstance(value, Counter) else value
            for name, value in vars(self).items()
            if not name.startswith("rejected")
        }

    def reject(self, measured: pd.DataFrame, reason: str) -> None:
        """Count measurements as dropped, and record their rows."""
        self.dropped_measurements[reason] += len(measured)
        if reason == OTHER_UNIT:
            self.dropped_units.update(measured["unit"].tolist())
        self.list_rows(measured, reason)

    def list_rows(self, measured: pd.DataFrame, reason: str) -> None:
        """Record the rows of dropped measurements, without counting them."""
        if len(measured):
            self.rejected.append(measured[["row", "assay"]].assign(reason=reason))

    def reject_compounds(self, compounds: pd.DataFrame, reason: str | pd.Series) -> None:
        """Count compounds as dropped, and record their rows."""
        found = compounds[["row"]].assign(reason=reason)
        self.dropped_compounds.update(found["reason"].tolist())
        if len(found):
            self.rejected_compounds.append(found)

    def rejected_rows(self) -> pd.DataFrame:
        """Return each row of a rejected measurement once with each reason, in the file's order."""
        return _once(self.rejected, ["row", "assay"])

    def rejected_structures(self) -> pd.DataFrame:
        """Return each row of a rejected compound once with each reason, in the file's order."""
        return _once(self.rejected_compounds, ["row"])


def _once(found: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    if not found:
        return pd.DataFrame(columns=[*by, "reason"])
    return pd.concat(found).drop_duplicates().sort_values(by, kind="stable")


def structures_of(tables: Tables, standard: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Return the compounds that have a structure: columns compound, structure, name and row.

    Args:
        standard: columns text (SMILES), structure and dropped, from `Standardise`.
    """
    compounds = tables.compounds
    report.compounds = len(compounds)
    empty = (compounds["smiles"] == "") | (compounds["compound"] == "")
    report.reject_compounds(compounds[empty], "no structure or name")
    compounds = compounds[~empty].merge(standard, "left", left_on="smiles", right_on="text")
    bad = compounds["structure"].isna()
    report.reject_compounds(compounds[bad], compounds.loc[bad, "dropped"])
    compounds = compounds[~bad].drop_duplicates(["compound", "structure"])
    several = compounds["compound"].duplicated(keep=False)
    report.reject_compounds(compounds[several], "several structures for one name")
    kept = compounds[~several]
    report.merged_compounds = int(kept["structure"].duplicated().sum())
    name = kept["name"] if "name" in kept else kept["compound"]
    return kept.assign(name=name)[["compound", "structure", "name", "row"]]


def labels_of(
    tables: Tables, compounds: pd.DataFrame, shared: Collection[str], quorum: Quorum, report: Report
) -> pd.DataFrame:
    """Return one row for each structure and task: columns structure, task, value, side.

    Args:
        compounds: the result of `structures_of`.
        shared: names of the tasks that all silos share.

    Raises:
        DataError: measurements have units, but their task has no unit.
    """
    measured = tables.measurements
    report.measurements = len(measured)

    def keep(which: pd.Series, reason: str) -> None:
        nonlocal measured
        report.reject(measured[~which], reason)
        measured = measured[which]

    keep(measured["assay"].isin(list(tables.of_assay)), "of no task")
    keep(measured["value"].notna(), "no number")
    keep(measured["compound"].isin(compounds["compound"]), "of no usable compound")
    measured = measured.merge(compounds[["compound", "structure"]], on="compound")
    feeds = pd.DataFrame(
        [(assay, task) for assay, tasks in tables.of_assay.items() for task in tasks],
        columns=["assay", "task"],
    )
    measured = measured.merge(feeds, on="assay").merge(_settings(tables.tasks), on="task")
    measured_tasks = set(measured["task"])
    about = measured["side"].isna()
    report.reject(measured[about], ABOUT)
    made = converted(measured[~about].reset_index(drop=True), tables.tasks, set(shared))
    for reason in FAULTS:
        report.reject(made.measured[made.reasons == reason], reason)
    measured = made.measured[made.reasons == ""]
    keep(_credible(measured), "out of the credible range")
    regression = measured["regression"].astype(bool)
    found = pd.concat(
        [_classes(measured[~regression], report), _numbers(measured[regression], report)],
        ignore_index=True,
    )
    labels = _above_quorum(found, tables.tasks, shared, quorum, report)
    few = set(found["task"]) - set(labels["task"])
    report.list_rows(measured[measured["task"].isin(few)], BELOW_QUORUM)
    report.dropped_tasks["without a measurement"] += len(set(tables.tasks) - measured_tasks)
    with_labels = set(labels["task"])
    report.shared_tasks = sum(name in with_labels for name in shared)
    report.private_tasks = len(with_labels) - report.shared_tasks
    report.records, report.labels = labels["structure"].nunique(), len(labels)
    return labels


def _settings(tasks: dict[str, AssayTask]) -> pd.DataFrame:
    rows = [
        (
            name,
            t.kind == "regression",
            t.threshold,
            t.low,
            t.high,
            t.center,
            t.scale,
            -1.0 if t.direction == "low" else 1.0,
        )
        for name, t in tasks.items()
    ]
    names = ["task", "regression", "threshold", "low", "high", "center", "scale", "sign"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.astype({name: float for name in names[2:]})


def _credible(measured: pd.DataFrame) -> pd.Series:
    """Return whether each value is between low and high, and for regression also close enough to
    the center that a job accepts the table."""
    value = measured["value"]
    between = (value >= measured["low"].fillna(-np.inf)) & (
        value <= measured["high"].fillna(np.inf)
    )
    scaled = (value - measured["center"]).abs() / measured["scale"]
    return between & ((scaled <= MAX_SCALED) | ~measured["regression"].astype(bool))


_KEYS = ["task", "structure"]
CONTRADICTED, BELOW_QUORUM = "contradicted by another", "of a task below its quorum"


def _classes(measured: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Return a class, 0 or 1, for each structure whose numbers and qualifiers determine it.

    Structures with contradictory classes are dropped.
    """
    sign = measured["sign"]  # with direction low, all comparisons are mirrored
    value, side, threshold = (measured[name] * sign for name in ("value", "side", "threshold"))
    bare = threshold.isna()
    binary = value.isin((0, 1)) & (side == 0)
    report.reject(measured[bare & ~binary], "neither 0 nor 1")
    reaches = value >= threshold
    # With a threshold of 6, "> 5" may be either class; so may "< 6.5", and "<= 6", as 6 gives 1.
    below = (value < threshold) | ((value == threshold) & ~measured["inclusive"].astype(bool))
    known = (side == 0) | ((side > 0) & reaches) | ((side < 0) & below)
    report.reject(measured[~bare & ~known], "on both sides of the threshold")
    label = value.where(bare, (reaches & (side >= 0)).astype(float))
    found = measured[[*_KEYS, "row", "assay"]].assign(value=label, side=0.0)[
        binary.where(bare, known)
    ]
    classes = found.groupby(_KEYS, sort=False)["value"].transform("nunique")
    report.reject(found[classes > 1], CONTRADICTED)
    kept = found[classes == 1][[*_KEYS, "value", "side"]]
    return _one_each(kept, report.dropped_measurements)


def _numbers(measured: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Return the median of a structure's exact values; without any, the tightest bound, if all
    bounds are on one side."""
    dropped = report.dropped_measurements
    exact = measured["side"] == 0
    has_exact = exact.groupby([measured["task"], measured["structure"]]).transform("any")
    medians = measured[exact].groupby(_KEYS, as_index=False)["value"].median()
    dropped[_MERGED] += int(has_exact.sum()) - len(medians)
    bounds = measured[~has_exact]
    sides = bounds.groupby(_KEYS)["side"].transform("nunique")
    report.reject(bounds[sides > 1], CONTRADICTED)
    bounds = bounds[sides == 1][[*_KEYS, "value", "side"]]
    tightest = bounds.assign(tight=bounds["value"] * bounds["side"]).sort_values("tight")
    return pd.concat(
        [medians.assign(side=0.0), _one_each(tightest.drop(columns="tight"), dropped, "last")],
        ignore_index=True,
    )


_MERGED = "one label for several of a structure"


def _one_each(
    found: pd.DataFrame, dropped: Dropped, which: Literal["first", "last"] = "first"
) -> pd.DataFrame:
    one = found.drop_duplicates(_KEYS, keep=which)
    dropped[_MERGED] += len(found) - len(one)
    return one


def _above_quorum(
    found: pd.DataFrame,
    tasks: dict[str, AssayTask],
    shared: Collection[str],
    quorum: Quorum,
    report: Report,
) -> pd.DataFrame:
    counts = found.groupby("task").agg(
        records=("value", "size"),
        positive=("value", lambda v: int((v == 1).sum())),
        exact=("side", lambda s: int((s == 0).sum())),
    )
    below = []
    for name, row in counts.iterrows():
        if tasks[str(name)].kind == "binary":
            few = min(row["positive"], row["records"] - row["positive"]) < quorum.classes
        else:
            few = row["records"] < quorum.values or row["exact"] < quorum.uncensored
        if few:
            below.append(name)
            left = "shared: left empty" if name in shared else "own"
            report.dropped_tasks[f"below quorum, {left}"] += 1
    gone = found["task"].isin(below)
    report.dropped_measurements[BELOW_QUORUM] += int(gone.sum())
    return found[~gone].reset_index(drop=True)

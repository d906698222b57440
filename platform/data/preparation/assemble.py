"""Builds labels from measurements and standard structures, with one record for each structure.

A structure that was measured several times is one record, so that differential privacy protects the
structure, not one of its measurements.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pandas as pd

from blindsum.platform.data.preparation.chunks import (
    as_categories,
    by_structure,
    structure_of_each,
)
from blindsum.platform.data.preparation.conversion import FAULTS, converted, require_units
from blindsum.platform.data.preparation.quorums import BELOW_QUORUM, above_quorum
from blindsum.platform.data.preparation.recipe import AssayTask, Quorum
from blindsum.platform.data.preparation.relations import ABOUT
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.tables import Dropped, Tables
from blindsum.platform.data.task_labels import MAX_SCALED


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
    """Return one row for each structure and task: columns structure and task, both categories,
    value and side.

    Args:
        compounds: the result of `structures_of`.
        shared: names of the tasks that all silos share.

    Raises:
        DataError: measurements have units, but their task has no unit.
    """
    measured = _usable(tables, compounds, report)
    combining = _Combining(tables, measured, set(shared), report)
    parts = [combining.labels(chunk) for chunk in by_structure(measured)]
    found = pd.concat(parts, ignore_index=True)
    labels = above_quorum(found, tables.tasks, shared, quorum, report)
    with_labels = set(labels["task"].unique())
    few = set(found["task"].unique()) - with_labels
    rows = pd.concat(combining.rows)
    report.list_rows(rows[rows["task"].isin(few)], BELOW_QUORUM)
    measured_tasks = combining.measured_tasks
    report.dropped_tasks["without a measurement"] += len(set(tables.tasks) - measured_tasks)
    report.shared_tasks = sum(name in with_labels for name in shared)
    report.private_tasks = len(with_labels) - report.shared_tasks
    report.records, report.labels = labels["structure"].nunique(), len(labels)
    return labels


def _usable(tables: Tables, compounds: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Return the measurements that have a task, a number and a structure, which is added."""
    measured = as_categories(tables.measurements)
    report.measurements = len(measured)

    def keep(which: pd.Series, reason: str) -> None:
        nonlocal measured
        report.reject(measured[~which], reason)
        measured = measured[which]

    keep(measured["assay"].isin(list(tables.of_assay)), "of no task")
    keep(measured["value"].notna(), "no number")
    measured = measured.assign(structure=structure_of_each(measured, compounds))
    keep(measured["structure"].notna(), "of no usable compound")
    return measured


class _Combining:
    """Combines the measurements of some structures at a time.

    Args:
        measured: all usable measurements.

    Attributes:
        measured_tasks: those that have measurements.
        rows: of the measurements that went into a label or contradicted another: columns row,
            assay and task.

    Raises:
        DataError: measurements have units, but their task has no unit.
    """

    def __init__(
        self, tables: Tables, measured: pd.DataFrame, shared: set[str], report: Report
    ) -> None:
        self._tasks, self._report = tables.tasks, report
        self.rows = list[pd.DataFrame]()
        there = set(measured["assay"].unique())
        pairs = [(a, task) for a, tasks in tables.of_assay.items() if a in there for task in tasks]
        feeds = pd.DataFrame(pairs, columns=["assay", "task"])
        feeds = feeds.astype({"assay": measured["assay"].dtype})
        self._feeds = feeds.merge(_settings(tables.tasks), on="task")
        self._task = pd.CategoricalDtype([*tables.tasks])
        self._structure = measured["structure"].dtype
        self.measured_tasks = set(feeds["task"])
        exact = measured.loc[measured["side"].notna(), ["assay", "unit"]].drop_duplicates()
        units = exact.merge(feeds, on="assay").groupby("task")["unit"].agg(set)
        require_units({str(name): found for name, found in units.items()}, tables.tasks, shared)

    def labels(self, measured: pd.DataFrame) -> pd.DataFrame:
        """Return the labels of measurements, among them all of their structures."""
        report = self._report
        measured = measured.merge(self._feeds, on="assay")
        about = measured["side"].isna()
        report.reject(measured[about], ABOUT)
        made = converted(measured[~about].reset_index(drop=True), self._tasks)
        for reason in FAULTS:
            report.reject(made.measured[made.reasons == reason], reason)
        measured = made.measured[made.reasons == ""]
        credible = _credible(measured)
        report.reject(measured[~credible], INCREDIBLE)
        measured = measured[credible]
        self.rows.append(measured[["row", "assay", "task"]].astype({"task": self._task}))
        regression = measured["regression"].astype(bool)
        parts = [_classes(measured[~regression], report), _numbers(measured[regression], report)]
        found = pd.concat(parts, ignore_index=True)
        return found.astype({"task": self._task, "structure": self._structure})


INCREDIBLE = "out of the credible range"


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
            t.direction == "either",
        )
        for name, t in tasks.items()
    ]
    names = ["task", "regression", "threshold", "low", "high", "center", "scale", "sign"]
    frame = pd.DataFrame(rows, columns=[*names, "either"])
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
CONTRADICTED = "contradicted by another"


def _classes(measured: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Return a class, 0 or 1, for each structure whose numbers and qualifiers determine it.

    Structures with contradictory classes are dropped.
    """
    measured = _from_zero(measured)
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


def _from_zero(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements with distances from zero in place of numbers, where the direction of
    the task is either."""
    either = measured["either"].astype(bool)
    if not either.any():
        return measured
    value, side = measured["value"], measured["side"] * np.sign(measured["value"])
    # Below a positive number lie numbers at every distance from zero.
    side = side.where((side > 0) | (measured["side"] == 0))
    return measured.assign(
        value=value.abs().where(either, value), side=side.where(either, measured["side"])
    )


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

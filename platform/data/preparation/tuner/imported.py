"""A configuration of TUNER in the form of `blindsum prepare`: recipe, sources, table of assays.

What belongs to the catalogue is public and becomes the recipe's shared tasks. Everything else is
the silo's own: its assays become private tasks, whose names and thresholds never leave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from blindsum.platform.data.preparation.faults import Faults
from blindsum.platform.data.preparation.own_files import OwnFiles
from blindsum.platform.data.preparation.recipe import Activities
from blindsum.platform.data.preparation.tables import read_activities
from blindsum.platform.data.preparation.tuner.parameters import (
    OfClasses,
    Parameters,
    Range,
    RunFiles,
    parameters_of,
)
from blindsum.platform.data.preparation.tuner.thresholds import Measured, adme, dose_response
from blindsum.platform.data.preparation.tuner.weight_table import (
    CATALOGUE,
    Assay,
    read_catalogue,
    read_weight_tables,
)

NON_CATALOGUE, ADME, DEVIATION = "NON-CATALOG-PANEL", "ADME", "std"
BETWEEN_CLASSES = 0.5
"""The threshold of labels: positives are 1, negatives -1 or 0."""

ACTIVITIES = {
    "compound": "input_compound_id",
    "assay": "input_assay_id",
    "value": "standard_value",
    "qualifier": "standard_qualifier",
    "one_unit": "none",
}
COMPOUNDS = {"compound": "input_compound_id", "smiles": "smiles"}

_NOTHING = Measured(np.zeros(0), np.zeros(0))

Row = dict[str, Any]


@dataclass
class Imported:
    """What a configuration becomes. The recipe is public in the consortium; the others are private
    to the silo.

    Attributes:
        recipe: of `blindsum.platform.data.preparation.recipe.Recipe`.
        sources: of `Sources`; the table of assays lies next to it.
        assays: rows of the table of assays.
        notes: what has no counterpart, or another one than TUNER's users expect.
    """

    recipe: dict[str, Any]
    sources: dict[str, Any]
    assays: list[Row]
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return "Imported(private)"


def imported(files: RunFiles, assay_table: str) -> Imported:
    """Read TUNER's files.

    Args:
        assay_table: the name of the table of assays, for the sources.

    Raises:
        DataError: a file cannot be read or is wrong. All faults of the parameters are in one
            message, and so are all of the tables.
    """
    parameters, faults = parameters_of(files.parameters), Faults()
    assays = read_weight_tables(files.weights, faults)
    catalogue = read_catalogue(files.catalogue, faults) if files.catalogue else {}
    for path in (*files.activities, files.structures):
        if not path.exists():
            faults.add(f"there is no file {path}")
    _require_settings(assays, parameters, catalogue, faults)
    hint = "Correct these in TUNER's files. docs/imports.md explains what is read."
    faults.require_none("TUNER's configuration cannot be imported", hint)
    made = _Tasks(parameters, catalogue, _measured(assays, files, parameters))
    rows = [row for assay in assays for row in made.of(assay)]
    names = Counter(row["task"] for row in rows if "threshold" in row or "kind" in row)
    if doubled := [name for name, count in names.items() if count > 1]:
        faults.add(f"{len(doubled)} tasks would have the name of another")
    faults.require_none("TUNER's configuration cannot be imported", "Rename assays.")
    activities = [str(path) for path in files.activities]
    sources = {
        "compounds": {"file": str(files.structures), **COMPOUNDS},
        "activities": {"file": activities if len(activities) > 1 else activities[0], **ACTIVITIES},
        "assays": assay_table,
        "divide_weights": True,
    }
    notes = [*_notes(parameters), *made.notes]
    return Imported(_recipe(parameters, made.shared()), sources, rows, notes)


def _recipe(parameters: Parameters, shared: dict[str, Row]) -> dict[str, Any]:
    standard, print_ = parameters.standardization, parameters.fingerprint
    quorum: dict[str, Any] = {}
    if deviation := parameters.credibility_range.get(DEVIATION, Range()).min:
        quorum["deviation"] = deviation
    groups: dict[str, dict[str, int]] = {}
    for name, of_numbers in parameters.training_quorum.regression.items():
        of_group = groups.setdefault(name, {})
        of_group["values"] = max(1, of_numbers.num_total)
        of_group["uncensored"] = max(1, of_numbers.num_uncensored_total)
    for name, of_classes in parameters.training_quorum.classification.items():
        of_group = groups.setdefault(name, {})
        of_group["positives"] = max(1, of_classes.num_active_total)
        of_group["negatives"] = max(1, of_classes.num_inactive_total)
    if of_catalogue := parameters.training_quorum.catalogue:
        # A task of the catalogue needs labels, however many of them are positives.
        groups.setdefault(CATALOGUE, {})["classes"] = 1
        groups[CATALOGUE]["records"] = max(1, of_catalogue.num_total)
    return {
        "structures": {
            "tautomer": standard.max_num_tautomers > 0,
            "stereo": standard.include_stereoinfo,
            "max_heavy_atoms": standard.max_num_atoms,
        },
        "features": {"kind": "ecfp", "radius": print_.radius, "bits": print_.fold_size},
        "folds": {"count": parameters.scaffold_folding.nfolds},
        **({"tasks": shared} if shared else {}),
        "quorum": quorum | {"groups": groups},
    }


def _notes(parameters: Parameters) -> Iterator[str]:
    if parameters.standardization.max_num_tautomers > 0:
        yield "tautomers are RDKit's canonical ones; max_num_tautomers is not a setting here"
    if not parameters.training_quorum.catalogue:
        yield "training_quorum has no CATALOG-PANEL: its tasks need 25 records of each class"
    yield (
        "folds and the order of bits follow from the consortium's secret (blindsum secret), not "
        "from TUNER's key: compounds of one scaffold lie in one fold, but folds have other numbers"
    )
    yield (
        "evaluation_quorum, censored_downweighting and regression_evaluation_task_filter are not "
        "read: a job evaluates every task that has labels, and a bound weighs as much as a number"
    )


def _effective(assay: Assay, catalogue: Mapping[str, list[float]]) -> str:
    """Return the type whose rules an assay follows: one that the catalogue does not have is like
    the silo's own panels."""
    if assay.type == CATALOGUE and assay.catalogue not in catalogue:
        return NON_CATALOGUE
    return assay.type


def _require_settings(
    assays: list[Assay],
    parameters: Parameters,
    catalogue: Mapping[str, list[float]],
    faults: Faults,
) -> None:
    """Note the assay types for which the parameters lack a setting."""
    quorum = parameters.training_quorum
    for kind in sorted({_effective(assay, catalogue) for assay in assays}):
        there = [one for one in assays if _effective(one, catalogue) == kind]
        lacks = [] if kind in parameters.credibility_range else ["credibility_range"]
        if kind != CATALOGUE and kind not in quorum.classification:
            lacks.append("training_quorum.classification")
        of_numbers = NON_CATALOGUE if kind == CATALOGUE else kind
        if any(one.regression for one in there) and of_numbers not in quorum.regression:
            lacks.append("training_quorum.regression")
        fixed = kind in parameters.global_thresholds or not kind.startswith("AUX")
        if not fixed and not all(one.binary or one.experts for one in there):
            lacks.append("global_thresholds")
        if lacks:
            faults.add(
                f"assay_type {kind} ({len(there)} assays) is not in {', '.join(lacks)} of the "
                "parameters"
            )


def _measured(
    assays: list[Assay], files: RunFiles, parameters: Parameters
) -> Mapping[str, Measured]:
    """Return the credible numbers of the assays whose settings follow from them; one for each
    compound and side."""
    fixed = parameters.global_thresholds
    needed = [
        one.name
        for one in assays
        if one.regression or not (one.binary or one.experts or one.type in fixed)
    ]
    if not needed:
        return {}
    said = Activities.model_validate(
        {"file": [str(path) for path in files.activities], **ACTIVITIES}
    )
    table = read_activities(said, OwnFiles(Path(), None, lambda text: None))
    table = table[table["assay"].isin(needed) & table["value"].notna() & table["side"].notna()]
    ranges = {one.name: parameters.credibility_range.get(one.type, Range()) for one in assays}
    found = {}
    for name, rows in table.groupby("assay", observed=True):
        credible, value = ranges[str(name)], rows["value"]
        low = -np.inf if credible.min is None else credible.min
        high = np.inf if credible.max is None else credible.max
        rows = rows[(value >= low) & (value <= high)]
        one_each = rows.groupby(["compound", "side"], observed=True)["value"].median().reset_index()
        values, sides = (
            one_each["value"].to_numpy(np.float64),
            one_each["side"].to_numpy(np.float64),
        )
        found[str(name)] = Measured(values, sides)
    return found


class _Tasks:
    """Makes tasks of assays."""

    def __init__(
        self,
        parameters: Parameters,
        catalogue: Mapping[str, list[float]],
        measured: Mapping[str, Measured],
    ) -> None:
        self._parameters, self._catalogue, self._measured = parameters, catalogue, measured
        self.notes = list[str]()

    def shared(self) -> dict[str, Row]:
        """Return the tasks of the catalogue: the same for every partner."""
        of_all = self._of_type(CATALOGUE) | {"group": CATALOGUE}
        return {
            _named(name, threshold): {
                "threshold": threshold,
                **of_all,
                "weight": of_all["weight"] / len(there),
            }
            for name, there in self._catalogue.items()
            for threshold in there
        }

    def of(self, assay: Assay) -> Iterator[Row]:
        """Yield the rows of the table of assays."""
        kind = _effective(assay, self._catalogue)
        row = {"assay": assay.name, "group": kind} | self._of_type(kind)
        if kind == CATALOGUE:
            for threshold in self._catalogue[assay.catalogue]:
                yield {"assay": assay.name, "task": _named(assay.catalogue, threshold)}
        elif assay.binary:
            yield row | {"task": assay.name, "threshold": BETWEEN_CLASSES, "low": -1, "high": 1}
        elif kind in self._parameters.global_thresholds:
            yield row | self._fixed(assay, self._parameters.global_thresholds[kind])
        else:
            yield from self._thresholds(assay, kind, row)
        if assay.regression and len(measured := self._measured.get(assay.name, _NOTHING).exact):
            if kind == CATALOGUE:
                row |= {"group": NON_CATALOGUE} | self._of_type(NON_CATALOGUE)
            yield row | {
                "task": f"{assay.name}_value",
                "kind": "regression",
                "center": _rounded(float(np.median(measured))),
                "scale": _rounded(float(np.std(measured))) or 1.0,
            }

    def _thresholds(self, assay: Assay, kind: str, row: Row) -> Iterator[Row]:
        measured = self._measured.get(assay.name, _NOTHING)
        if kind == ADME:
            found = adme(assay.experts, measured, assay.direction)
        else:
            trial = self._parameters.training_quorum.classification.get("OTHER", _ONE)
            least = trial.num_active_total, trial.num_inactive_total
            found = dose_response(assay.experts, measured, *least)
        low = {"direction": "low"} if assay.direction == "low" else {}
        for threshold in sorted({_rounded(one) for one in found}):
            yield row | low | {"task": _named(assay.name, threshold), "threshold": threshold}

    def _fixed(self, assay: Assay, threshold: float) -> Row:
        """Return what a screen's task has: an effect downwards, upwards, or in either direction."""
        if assay.direction == "low":
            return {"task": assay.name, "threshold": -threshold, "direction": "low"}
        direction = {} if assay.direction == "high" else {"direction": "either"}
        return {"task": assay.name, "threshold": threshold, **direction}

    def _of_type(self, kind: str) -> Row:
        credible = self._parameters.credibility_range.get(kind, Range())
        limits = {"low": credible.min, "high": credible.max}
        weight = self._parameters.initial_task_weights.get(kind, 1.0)
        return {name: v for name, v in limits.items() if v is not None} | {"weight": weight}


_ONE = OfClasses(num_active_total=1, num_inactive_total=1)


def _named(assay: str, threshold: float) -> str:
    return f"{assay}_{threshold:g}"


def _rounded(value: float) -> float:
    """Return a number to six digits: a task's name tells its threshold."""
    return float(f"{value:.6g}")


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """Return the table of assays, empty where a row has no setting."""
    names = ["assay", "task", "kind", "group", "threshold", "direction", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "weight", "center", "scale"])

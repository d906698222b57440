"""Converts measurements to the unit of their task; those that cannot be converted are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors

from blindsum.platform.data.preparation.recipe import AssayTask
from blindsum.platform.data.preparation.units import (
    Numbers,
    convert,
    convertible,
    p_molar,
    unit_of,
)
from blindsum.platform.errors import DataError

# RDKit writes the SMILES that it cannot read to stderr.
rdBase.DisableLog("rdApp.*")

OTHER_UNIT, NO_UNIT = "in a unit that does not convert", "without a unit"
NO_MASS, NOT_ABOVE_ZERO = (
    "of a structure without a molar mass",
    "zero or below, which has no logarithm",
)
FAULTS = (OTHER_UNIT, NO_UNIT, NO_MASS, NOT_ABOVE_ZERO)


@dataclass(frozen=True)
class Converted:
    """Converted measurements. Private to the silo.

    `measured` has values and sides in the unit of their task; `reasons` [rows] says why a row must
    be dropped, and is empty for the others.
    """

    measured: pd.DataFrame
    reasons: npt.NDArray[np.object_]


def require_units(
    units: Mapping[str, set[str]], tasks: Mapping[str, AssayTask], shared: set[str]
) -> None:
    """Raise DataError if measurements have units, but their task has no unit.

    Args:
        units: those of each task's measurements.
        shared: names of the tasks that all silos share.
    """
    for name, there in units.items():
        if tasks[name].numeric and tasks[name].target is None:
            _require_unitless(name, there, name in shared)


def converted(measured: pd.DataFrame, tasks: Mapping[str, AssayTask]) -> Converted:
    """Convert every measurement to the unit and transform of its task.

    Args:
        measured: columns task, structure, value, side, unit.
    """
    values = measured["value"].to_numpy(np.float64, copy=True)
    sides = measured["side"].to_numpy(np.float64, copy=True)
    reasons = np.full(len(measured), "", object)
    masses_of = _Masses()
    units, structures = measured["unit"].to_numpy(object), measured["structure"].to_numpy(object)
    for name, rows in measured.groupby("task", sort=False).indices.items():
        task, there = tasks[str(name)], set(units[rows])
        if not task.numeric or task.target is None:
            continue
        for text in there:
            at, unit = rows[units[rows] == text], unit_of(text)
            if not convertible(unit, task.target):
                reasons[at] = OTHER_UNIT if text else NO_UNIT
                continue
            masses = None
            if unit.kind != task.target.kind:
                masses = masses_of(structures[at])
                reasons[at[np.isnan(masses)]] = NO_MASS
            values[at] = convert(values[at], unit, task.target, masses)
        if task.transform == "p_molar":
            reasons[rows[(reasons[rows] == "") & (values[rows] <= 0)]] = NOT_ABOVE_ZERO
            whole = rows[reasons[rows] == ""]
            values[whole] = p_molar(values[whole])
            sides[whole] = -sides[whole]  # a higher concentration is a lower pIC50
    return Converted(measured.assign(value=values, side=sides), reasons)


def _require_unitless(name: str, units: set[str], shared: bool) -> None:
    """Raise DataError unless all numbers of a task without a unit are in the same unit.

    Silos cannot see each other's units. The numbers of a shared task must therefore have no unit at
    all, or the recipe must name it.
    """
    if len(units) > 1 or (shared and units != {""}):
        where = f"tasks.{name} in the recipe" if shared else "the task's row of the assay table"
        raise DataError(
            f"task '{name}' has measurements {'with units' if shared else 'in more than one unit'}"
            ", but the task has no unit",
            f"Give {where} a unit (such as nM) or transform: p_molar. If the numbers have no unit, "
            "write one_unit: none in the sources.",
        )


class _Masses:
    """Molar masses of standard structures in g/mol, each computed once; NaN for a structure with
    dummy atoms (`*`)."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def __call__(self, structures: npt.NDArray[np.object_]) -> Numbers:
        for text in set(structures) - set(self._known):
            self._known[text] = _mass(text)
        return np.array([self._known[text] for text in structures], np.float64)


def _mass(structure: str) -> float:
    molecule = Chem.MolFromSmiles(structure)
    whole = all(atom.GetAtomicNum() for atom in molecule.GetAtoms())
    return float(Descriptors.MolWt(molecule)) if whole else float("nan")  # type: ignore[attr-defined]

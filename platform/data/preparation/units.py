"""Units of concentration, and their conversion.

Units of amount (mol/L) and of mass (g/L) are stored as powers of ten, so that 10,000 nM are exactly
10 uM and a threshold gives the same result at every silo. The molar mass converts between the two.
Any other unit (%, hours) is compared as text and cannot be converted.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_PREFIXES = {"": 0, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
_VOLUMES = {"L": 0, "dL": -1, "mL": -3, "uL": -6}


@dataclass(frozen=True)
class Unit:
    """A unit. `text` is its canonical spelling. For a unit of amount or mass, 10**exponent of it
    are 1 mol/L or 1 g/L."""

    text: str
    kind: Literal["amount", "mass", "other"] = "other"
    exponent: int = 0


def _known() -> dict[str, Unit]:
    """Return the known units by spelling. Case matters, since mM and nM are not MM and nm; only the
    litre is written with either."""
    found: dict[str, Unit] = {}
    for prefix, power in _PREFIXES.items():
        unit = Unit(f"{prefix}M", "amount", -power)
        found |= dict.fromkeys((unit.text, f"{prefix}mol/L", f"{prefix}mol/l"), unit)
        for volume, of_litre in _VOLUMES.items():
            mass = Unit(f"{prefix}g/{volume}", "mass", of_litre - power)
            found |= dict.fromkeys((mass.text, mass.text.replace("L", "l")), mass)
    return found


_UNITS = _known()

_PER_VOLUME = re.compile(r"([a-z]+?)[.*]?([mud]?[Ll])\^?-1")

MOLAR = _UNITS["M"]


def unit_of(text: str) -> Unit:
    """Return the unit that a text names; empty text gives a unit with empty text.

    `µg.mL-1`, `mcg/ml` and `ug/mL` are the same unit.
    """
    # NFKC unifies the two signs for micro, and turns superscript digits into plain ones.
    plain = " ".join(unicodedata.normalize("NFKC", text).replace("\u2212", "-").split())
    spelt = plain.replace("\u03bc", "u").replace("mcg", "ug").replace(" ", "")
    per_volume = _PER_VOLUME.fullmatch(spelt)
    if per_volume:  # ug.mL-1
        spelt = f"{per_volume[1]}/{per_volume[2]}"
    return _UNITS.get(spelt, Unit(plain))


def canonical(text: str) -> str:
    """Return a unit's canonical spelling."""
    return unit_of(text).text


def convertible(unit: Unit, target: Unit) -> bool:
    """Return whether numbers in `unit` can be converted to `target`, given molar masses."""
    return unit == target or "other" not in (unit.kind, target.kind)


def convert(values: Numbers, unit: Unit, target: Unit, masses: Numbers | None = None) -> Numbers:
    """Convert numbers from `unit` to `target`, which must be convertible.

    Args:
        masses: g/mol of each value's molecule, if `unit` and `target` are of different kinds.
    """
    shift = target.exponent - unit.exponent
    # Dividing by 1000 is exact; multiplying by 0.001 is not.
    moved = values * 10.0**shift if shift >= 0 else values / 10.0**-shift
    if unit.kind == target.kind:
        return moved
    if masses is None:
        raise ValueError("a conversion between mass and amount needs molar masses")
    return moved / masses if unit.kind == "mass" else moved * masses


def p_molar(molar: Numbers) -> Numbers:
    """Return -log10 of positive mol/L, rounded to nine digits: further ones differ between
    processors."""
    return np.asarray(np.round(-np.log10(molar), 9), np.float64)

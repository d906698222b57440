"""Units of concentration, and from one to another.

Amounts (mol/L) and masses (g/L) are kept as powers of ten, so that 10,000 nM are exactly 10 uM and a
threshold falls the same way in every silo. Between the two stands the molar mass. Every other unit (%,
hours) is compared as text and converts to nothing.
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
    """`text` is its one spelling; 10**exponent of it is 1 mol/L or 1 g/L, if it is one of those."""

    text: str
    kind: Literal["amount", "mass", "other"] = "other"
    exponent: int = 0


def _known() -> dict[str, Unit]:
    """By spelling. Capitals count, since mM and nM are not MM and nm; only of a litre both are in use."""
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
    """The unit that a text names: `µg.mL-1`, `mcg/ml` and `ug/mL` are one. Empty where it names none."""
    # NFKC makes one letter of the two signs for micro, and plain figures of raised ones.
    plain = " ".join(unicodedata.normalize("NFKC", text).replace("\u2212", "-").split())
    spelt = plain.replace("\u03bc", "u").replace("mcg", "ug").replace(" ", "")
    per_volume = _PER_VOLUME.fullmatch(spelt)
    if per_volume:  # ug.mL-1
        spelt = f"{per_volume[1]}/{per_volume[2]}"
    return _UNITS.get(spelt, Unit(plain))


def canonical(text: str) -> str:
    """A unit's one spelling."""
    return unit_of(text).text


def convertible(unit: Unit, target: Unit) -> bool:
    """Whether numbers in `unit` can be given in `target`, with molar masses at hand."""
    return unit == target or "other" not in (unit.kind, target.kind)


def convert(values: Numbers, unit: Unit, target: Unit, masses: Numbers | None = None) -> Numbers:
    """Numbers in `target`, of two units that are convertible.

    Args:
        masses: g/mol of each value's molecule, where `unit` and `target` are of two kinds.
    """
    shift = target.exponent - unit.exponent
    # To divide by 1000 is exact where to multiply by 0.001 is not.
    moved = values * 10.0**shift if shift >= 0 else values / 10.0**-shift
    if unit.kind == target.kind:
        return moved
    if masses is None:
        raise ValueError("between mass and amount stands the molar mass")
    return moved / masses if unit.kind == "mass" else moved * masses


def p_molar(molar: Numbers) -> Numbers:
    """-log10 of mol/L above zero, to nine digits: the last ones differ between processors."""
    return np.asarray(np.round(-np.log10(molar), 9), np.float64)

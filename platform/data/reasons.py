"""Why a molecule has no features: for its owner, in the silo's own file, and for everyone else."""

from __future__ import annotations

from collections.abc import Iterable

MAX_SMILES = 1000
"""Longer texts count as unreadable: descriptors of huge molecules take minutes, or crash."""

MAX_ATOMS, MAX_WALKS = 300, 30_000
"""Larger molecules have no descriptors, in every silo alike: a limit in seconds would drop on one
machine what it keeps on another. `MAX_ATOMS` counts heavy atoms, and hydrogens written as atoms.
`MAX_WALKS` counts walks of four bonds, which the Chi and Kappa indices follow one by one."""

UNREADABLE, EMPTY = "RDKit cannot read it", "it has no atoms"
LONG = f"it is longer than {MAX_SMILES:,} characters"
NO_KEY = {"scaffold": "RDKit finds no scaffold", "spelling": "RDKit cannot write it"}
UNDEFINED = "undefined descriptors: "
"""Followed by the descriptors' names."""
TOO_LARGE = f"{UNDEFINED}all, because it has more than {MAX_ATOMS} atoms or branches too often"


def in_general(reasons: Iterable[str]) -> str:
    """Return what is wrong with molecules, in words that tell nothing about any of them."""
    undefined = {reason.startswith(UNDEFINED) for reason in reasons}
    kinds = ["that RDKit cannot read"] if False in undefined else []
    kinds += ["whose descriptors are undefined"] if True in undefined else []
    return " or ".join(kinds)

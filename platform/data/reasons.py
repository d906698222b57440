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
NO_KEY = {
    "scaffold": "RDKit finds no scaffold",
    "spelling": "RDKit cannot write it",
    "cluster": "RDKit makes no fingerprint of it",
}
UNDEFINED = "undefined descriptors: "
"""Followed by the descriptors' names."""
TOO_LARGE = f"{UNDEFINED}all, because it has more than {MAX_ATOMS} atoms or branches too often"

LARGE_GRAPH = "its graph is too large: "
"""Followed by the job's limits."""

_KINDS = {
    UNREADABLE: "that RDKit cannot read",
    UNDEFINED: "whose descriptors are undefined",
    LARGE_GRAPH: "with more atoms or bonds than the job allows (data.features.max_atoms)",
}


def too_large_graph(atoms: int, bonds: int) -> str:
    """Return the reason of a molecule beyond a job's limits."""
    return f"{LARGE_GRAPH}more than {atoms} atoms or {bonds} bonds (data.features.max_atoms)"


def in_general(reasons: Iterable[str]) -> str:
    """Return what is wrong with molecules, in words that tell nothing about any of them."""
    found = {next((s for s in _KINDS if reason.startswith(s)), UNREADABLE) for reason in reasons}
    return " or ".join(said for kind, said in _KINDS.items() if kind in found)

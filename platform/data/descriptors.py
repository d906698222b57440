"""RDKit descriptors of molecules, and the public constants that scale them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rdkit import Chem
from rdkit.Chem import Descriptors as rdkit_descriptors

from blindsum.platform.errors import JobError
from blindsum.platform.job.features_section import Descriptors, Scaling

MAX_ATOMS, MAX_WALKS = 300, 30_000
"""Larger molecules have no descriptors and count as unreadable, in every silo alike: a limit in
seconds would drop on one machine what it keeps on another. `MAX_ATOMS` counts heavy atoms, and
hydrogens written as atoms. `MAX_WALKS` counts walks of four bonds, which the Chi and Kappa indices
follow one by one."""

PUBLIC_SCALING: dict[str, Scaling] = {
    name: Scaling(center=center, scale=scale)
    for name, center, scale in (
        # Rounded means and standard deviations of the public ESOL table (Delaney, 2004). They
        # describe drug-like organic chemistry, not any silo's data.
        ("MolLogP", 2.5, 1.9),
        ("MolWt", 200.0, 100.0),
        ("TPSA", 35.0, 35.0),
        ("NumHDonors", 0.7, 1.1),
        ("NumHAcceptors", 2.1, 2.1),
        ("NumRotatableBonds", 2.2, 2.6),
        ("RingCount", 1.4, 1.3),
        ("NumAromaticRings", 0.9, 1.0),
        ("FractionCSP3", 0.44, 0.37),
        ("HeavyAtomCount", 13.0, 7.0),
        ("MolMR", 54.0, 25.0),
        ("LabuteASA", 83.0, 40.0),
        ("BalabanJ", 2.7, 0.6),
        ("BertzCT", 330.0, 280.0),
        ("NumHeteroatoms", 3.3, 2.8),
        ("qed", 0.55, 0.15),
    )
}


def descriptor_scaling(section: Descriptors) -> dict[str, Scaling]:
    """Return every descriptor with its public constants.

    Raises:
        JobError: RDKit does not have a descriptor, or no public scaling is known for it.
    """
    known = {name for name, _ in rdkit_descriptors.descList}
    named = section.descriptors
    unknown = [name for name in named if name not in known]
    if unknown:
        raise JobError(
            f"data.features.descriptors: RDKit has no descriptor {unknown[0]!r}",
            "Names are those of rdkit.Chem.Descriptors, such as MolLogP or TPSA.",
        )
    if isinstance(named, dict):
        return named
    bare = [name for name in named if name not in PUBLIC_SCALING]
    if bare:
        raise JobError(
            f"data.features.descriptors: no public scaling is known for {bare[0]!r}",
            f"Write it as a key: {bare[0]}: {{center: ..., scale: ...}}.",
        )
    return {name: PUBLIC_SCALING[name] for name in named}


def descriptors(names: Sequence[str]) -> Callable[[Chem.Mol], list[float]]:
    """Return the function from a molecule to its RDKit descriptors, unscaled.

    It gives NaN for a descriptor that RDKit cannot compute, and for all if the molecule is too
    large.
    """
    functions = dict(rdkit_descriptors.descList)

    def one(name: str, molecule: Chem.Mol) -> float:
        try:
            return float(functions[name](molecule))
        except (ArithmeticError, ValueError, RuntimeError):  # RDKit raises these for odd molecules
            return float("nan")

    def compute(molecule: Chem.Mol) -> list[float]:
        if _too_large(molecule):
            return [float("nan")] * len(names)
        return [one(name, molecule) for name in names]

    return compute


def _too_large(molecule: Chem.Mol) -> bool:
    """Return whether a descriptor could take longer than a good part of a second."""
    if molecule.GetNumAtoms() > MAX_ATOMS:
        return True
    # A walk of four bonds is two walks of two from the atom in its middle.
    walks_of_two = [sum(n.GetDegree() for n in a.GetNeighbors()) for a in molecule.GetAtoms()]
    return bool(sum(count * count for count in walks_of_two) > MAX_WALKS)

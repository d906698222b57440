"""RDKit descriptors of molecules, and the choice of the public constants that scale them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rdkit import Chem
from rdkit.Chem import Descriptors as rdkit_descriptors

from blindsum.platform.data.reasons import MAX_ATOMS, MAX_WALKS
from blindsum.platform.data.scaling import SCALINGS, public_scaling
from blindsum.platform.errors import JobError
from blindsum.platform.job.features_section import FIRST_SCALING, Descriptors, Scaling


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
    chosen = section.scaling or FIRST_SCALING
    constants = public_scaling(chosen)
    bare = [name for name in named if name not in constants]
    if bare:
        elsewhere = [one for one in SCALINGS if bare[0] in public_scaling(one)]
        other = f"Set data.features.scaling: {elsewhere[-1]}, or write" if elsewhere else "Write"
        raise JobError(
            f"data.features.descriptors: no public scaling is known for {bare[0]!r} in {chosen}",
            f"{other} it as a key: {bare[0]}: {{center: ..., scale: ...}}.",
        )
    return {name: constants[name] for name in named}


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
        if too_large(molecule):
            return [float("nan")] * len(names)
        return [one(name, molecule) for name in names]

    return compute


def too_large(molecule: Chem.Mol) -> bool:
    """Return whether a descriptor could take longer than a good part of a second."""
    if molecule.GetNumAtoms() > MAX_ATOMS:
        return True
    # A walk of four bonds is two walks of two from the atom in its middle.
    walks_of_two = [sum(n.GetDegree() for n in a.GetNeighbors()) for a in molecule.GetAtoms()]
    return bool(sum(count * count for count in walks_of_two) > MAX_WALKS)

"""Reads SMILES into molecules, without atom-map numbers; writes them, their scaffolds, fingerprints
and MACCS keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from blindsum.platform.job.features_section import Ecfp

# RDKit writes the SMILES that it cannot read to stderr, where Ray would log it. Every process
# that reads a silo's molecules imports this module, which turns RDKit's log off.
rdBase.DisableLog("rdApp.*")


def read_molecule(smiles: str) -> Chem.Mol | None:
    """Return the molecule as RDKit reads it, without atom-map numbers, or None if it cannot.

    `[CH3:1][OH:2]` is methanol with numbers from a reaction or a drawing program, and must have the
    same key as `CO`. Numbers also turn an atom with two equal ends into a stereocentre, so the
    molecule is read again without them.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or ":" not in smiles:  # ":" is also in aromatic bonds and CXSMILES
        return molecule
    mapped = [atom for atom in molecule.GetAtoms() if atom.GetAtomMapNum()]
    if not mapped:
        return molecule
    for atom in mapped:
        atom.SetAtomMapNum(0)
    return Chem.MolFromSmiles(write_molecule(molecule))


def write_molecule(molecule: Chem.Mol) -> str:
    """Return the canonical SMILES; for enhanced stereo (`|&1:1|`, a racemate), canonical
    CXSMILES."""
    if not molecule.GetStereoGroups():
        return str(Chem.MolToSmiles(molecule))
    canonical = Chem.CanonicalizeStereoGroups(molecule)
    fields = Chem.CXSmilesFields.CX_ENHANCEDSTEREO
    return str(Chem.MolToCXSmiles(canonical, Chem.SmilesWriteParams(), fields))


def scaffold_of(molecule: Chem.Mol) -> str:
    """Return the Bemis-Murcko scaffold (J. Med. Chem. 1996, 39, 2887) as canonical SMILES.

    Acyclic molecules have no scaffold. Each is its own key, so that they do not all lie in one
    fold.
    """
    core = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
    return Chem.MolToSmiles(core) or Chem.MolToSmiles(molecule)


def ecfp(section: Ecfp) -> Callable[[Chem.Mol], npt.NDArray[np.int64]]:
    """Return the function from a molecule to the positions of its bits, ascending."""
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=section.radius, fpSize=section.bits, includeChirality=section.chirality
    )

    def positions(molecule: Chem.Mol) -> npt.NDArray[np.int64]:
        on = generator.GetFingerprint(molecule).GetOnBits()
        return np.fromiter(on, np.int64)

    return positions


def maccs(molecule: Chem.Mol) -> npt.NDArray[np.int64]:
    """Return the positions of a molecule's MACCS keys from 0 to 165, ascending: key n, which RDKit
    has at position n, is at n - 1, because there is no key 0."""
    on = rdMolDescriptors.GetMACCSKeysFingerprint(molecule).GetOnBits()
    return np.fromiter(on, np.int64) - 1

"""Molecules read from SMILES without atom-map numbers, written as SMILES, or as fingerprints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.job.data_section import Ecfp

# RDKit writes the SMILES that it cannot read to stderr, where Ray would log it. Every process
# that reads a silo's molecules imports this module, which turns RDKit's log off.
rdBase.DisableLog("rdApp.*")


def read_molecule(smiles: str) -> Chem.Mol | None:
    """The molecule without atom-map numbers, as RDKit reads it; None where it cannot.

    `[CH3:1][OH:2]` is a numbered methanol, written so by a reaction or a drawing program, and shares
    the key of `CO`. Numbers also make centres of what has two equal ends, so the molecule is read again.
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
    """Canonical SMILES; with enhanced stereo (`|&1:1|`, a racemate), canonical CXSMILES."""
    if not molecule.GetStereoGroups():
        return str(Chem.MolToSmiles(molecule))
    canonical = Chem.CanonicalizeStereoGroups(molecule)
    fields = Chem.CXSmilesFields.CX_ENHANCEDSTEREO
    return str(Chem.MolToCXSmiles(canonical, Chem.SmilesWriteParams(), fields))


def ecfp(section: Ecfp) -> Callable[[Chem.Mol], npt.NDArray[np.int64]]:
    """Return the function from a molecule to the positions of its bits, ascending."""
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=section.radius, fpSize=section.bits, includeChirality=section.chirality
    )

    def positions(molecule: Chem.Mol) -> npt.NDArray[np.int64]:
        on = generator.GetFingerprint(molecule).GetOnBits()
        return np.fromiter(on, np.int64)

    return positions

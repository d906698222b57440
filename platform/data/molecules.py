"""Reads SMILES into molecules, without atom-map numbers, and writes them."""

from __future__ import annotations

from rdkit import Chem


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

"""SMILES to molecules, without what tells atoms apart on paper alone."""

from __future__ import annotations

from rdkit import Chem


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

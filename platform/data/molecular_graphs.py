"""What is known of a molecule's atoms and bonds, by RDKit.

`chemprop-2` is the featurisation of chemprop 2's defaults (Heid et al., J. Chem. Inf. Model. 2024,
64, 9; that of Yang et al., J. Chem. Inf. Model. 2019, 59, 3370, with other elements and
hybridisations): hydrogens are no atoms of their own unless the SMILES needs them. Each code counts
the values in the order below, and a last one stands for all others.

    atomic number     1 to 36, 53; 0 is no atom
    degree            0 to 5, hydrogens included
    formal charge     -1, -2, 1, 2, 0
    chirality         RDKit's ChiralType 0 to 3
    hydrogens         0 to 4
    hybridisation     S, SP, SP2, SP2D, SP3, SP3D, SP3D2
    aromatic          no, yes
    bond              single, double, triple, aromatic, from 1; 0 is no bond
    conjugated, ring  no, yes
    stereochemistry   RDKit's BondStereo 0 to 5
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from blindsum.platform.data.graphs import OF_ATOM, OF_BOND

_ELEMENTS = {number: i for i, number in enumerate([*range(1, 37), 53], 1)}
_CHARGES = {charge: i for i, charge in enumerate([-1, -2, 1, 2, 0])}
_HYBRIDISATIONS = {
    getattr(Chem.HybridizationType, name): i
    for i, name in enumerate(("S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2"))
}
_KINDS = {
    getattr(Chem.BondType, name): i
    for i, name in enumerate(("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"), 1)
}
_MOST_DEGREE, _MOST_CHIRALITY, _MOST_HYDROGENS, _MOST_STEREO = 5, 3, 4, 5


class Graph(NamedTuple):
    """A molecule's atoms, uint8 [atoms, OF_ATOM], hundredths of their masses, float32 [atoms], and
    bonds, uint8 [bonds, OF_BOND], as `blindsum.platform.data.graphs` says."""

    atoms: npt.NDArray[np.uint8]
    masses: npt.NDArray[np.float32]
    bonds: npt.NDArray[np.uint8]


def graph_of(molecule: Chem.Mol) -> Graph:
    """Return the graph of a molecule of at most 255 atoms."""
    atoms = [_atom(one) for one in molecule.GetAtoms()]
    bonds = [_bond(one) for one in molecule.GetBonds()]
    return Graph(
        np.array(atoms, np.uint8).reshape(-1, OF_ATOM),
        np.array([0.01 * one.GetMass() for one in molecule.GetAtoms()], np.float32),
        np.array(bonds, np.uint8).reshape(-1, OF_BOND),
    )


def _atom(atom: Chem.Atom) -> tuple[int, ...]:
    return (
        _ELEMENTS.get(atom.GetAtomicNum(), len(_ELEMENTS) + 1),
        min(atom.GetTotalDegree(), _MOST_DEGREE + 1),
        _CHARGES.get(atom.GetFormalCharge(), len(_CHARGES)),
        min(int(atom.GetChiralTag()), _MOST_CHIRALITY + 1),
        min(atom.GetTotalNumHs(), _MOST_HYDROGENS + 1),
        _HYBRIDISATIONS.get(atom.GetHybridization(), len(_HYBRIDISATIONS)),
        int(atom.GetIsAromatic()),
    )


def _bond(bond: Chem.Bond) -> tuple[int, ...]:
    return (
        bond.GetBeginAtomIdx(),
        bond.GetEndAtomIdx(),
        _KINDS.get(bond.GetBondType(), len(_KINDS) + 1),
        int(bond.GetIsConjugated()),
        int(bond.IsInRing()),
        min(int(bond.GetStereo()), _MOST_STEREO + 1),
    )

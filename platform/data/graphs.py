"""Molecular graphs: what is known of atoms and bonds, and records of them.

An atom's codes are its atomic number, degree, formal charge, chirality, hydrogens, hybridisation
and aromaticity (`ATOM_CODES`), and a hundredth of its mass follows. A bond's values are the numbers
of its two atoms, from 0, and its kind, conjugation, ring and stereochemistry (`BOND_CODES`). 0
stands for no atom as atomic number, and for no bond as kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.compact import Compact, Numbers, Selected
from blindsum.platform.data.ragged import Positions, Ragged
from blindsum.platform.job.model_section import ATOM_CODES, BOND_CODES, GraphSize

OF_ATOM, OF_BOND = len(ATOM_CODES), 2 + len(BOND_CODES)
"""Bytes that are kept of an atom beside its mass, and of a bond."""

_MADE_OF_ATOM, _MADE_OF_BOND = 640, 1280
"""Numbers that a model is taken to hold of an atom, and of a bond's two directions, at a time."""


class _Rows(Ragged):
    """Rows of numbers, all of one length; a record has any number of them up to a greatest. Entries
    are columns, one number of each row or several."""

    def dense(self) -> npt.NDArray[np.float32]:
        """Return float32 [records, width]: the rows one after the other, and then zeros."""
        rows = np.column_stack([one.astype(np.float32) for one in self._entries])
        found = np.zeros((len(self), self.width // rows.shape[1], rows.shape[1]), np.float32)
        found[self.of_records, self.places] = rows
        return found.reshape(self.shape)


class AtomsAndBonds(Compact):
    """Molecular graphs, with a byte for each code.

    Args:
        atoms: for each atom, uint8 [OF_ATOM] and its mass, float32.
        bonds: for each bond, uint8 [OF_BOND].
        size: the most atoms and bonds of a record.
    """

    def __init__(self, atoms: _Rows, bonds: _Rows, size: GraphSize) -> None:
        self._atoms, self._bonds, self._size = atoms, bonds, size
        self.width = size.values

    @classmethod
    def of(
        cls,
        counts: tuple[Positions, Positions],
        atoms: npt.NDArray[np.uint8],
        masses: npt.NDArray[np.float32],
        bonds: npt.NDArray[np.uint8],
        size: GraphSize,
    ) -> AtomsAndBonds:
        """Return records with those numbers of atoms and of bonds, one after the other."""
        of_atoms = _Rows(counts[0], [atoms, masses], size.atoms * (OF_ATOM + 1))
        return cls(of_atoms, _Rows(counts[1], [bonds], size.bonds * OF_BOND), size)

    @classmethod
    def none(cls, size: GraphSize) -> AtomsAndBonds:
        """Return no records."""
        counts = np.zeros(0, np.int64)
        atoms, bonds = (np.zeros((0, count), np.uint8) for count in (OF_ATOM, OF_BOND))
        return cls.of((counts, counts), atoms, np.zeros(0, np.float32), bonds, size)

    def __len__(self) -> int:
        return len(self._atoms)

    def __getitem__(self, rows: Selected) -> AtomsAndBonds:
        """Return some of the records, in that order."""
        return AtomsAndBonds(self._atoms[rows], self._bonds[rows], self._size)

    @property
    def arrays(self) -> list[Numbers]:
        """Those of the atoms, then those of the bonds."""
        return [*self._atoms.arrays, *self._bonds.arrays]

    def like(self, arrays: Sequence[Numbers]) -> AtomsAndBonds:
        """Return other records of the same size."""
        of_atoms = len(self._atoms.arrays)
        atoms, bonds = self._atoms.like(arrays[:of_atoms]), self._bonds.like(arrays[of_atoms:])
        return AtomsAndBonds(atoms, bonds, self._size)

    @property
    def values_at_work(self) -> int:
        """The record's own, and what a model makes of its atoms and bonds."""
        made = self._size.atoms * _MADE_OF_ATOM + self._size.bonds * _MADE_OF_BOND
        return self.width + made

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of atoms."""
        return self._atoms.counts

    def dense(self) -> npt.NDArray[np.float32]:
        """Return float32 [records, width]: the atoms' values and then the bonds'."""
        return np.concatenate([self._atoms.dense(), self._bonds.dense()], axis=1)

"""Which records are held out. The same rule in every silo, with nothing exchanged.

A key (scaffold, patient number) lies in the test fold when HMAC-SHA256(salt, key), read as a
fraction of 1, is below `test_fraction`.
"""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from blindsum.platform.data.molecules import read_molecule
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import Columns, DataSection, Fingerprint


def in_test_fold(table: pa.Table, contract: DataSection) -> npt.NDArray[np.bool_]:
    """Bool [records]: true where the record is held out. `table` has readable molecules only.

    Raises:
        DataError: a fold column says something else than train or test.
    """
    folds = contract.folds
    if folds.kind == "column":
        if folds.held_out is not None:
            return np.array(pc.equal(table.column(folds.column), folds.held_out), np.bool_)
        values = table.column(folds.column).to_pylist()
        if set(values) - {"train", "test"}:
            raise DataError(
                f"column '{folds.column}' has values other than train and test",
                "Correct them, or choose another kind of data.folds.",
            )
        return np.array([value == "test" for value in values], np.bool_)
    if folds.kind == "hash":
        keys = [str(value) for value in table.column(folds.column).to_pylist()]
    elif isinstance(contract.features, Columns | Fingerprint):  # as the job file's validation says
        raise DataError("scaffold folds need a SMILES column")
    else:
        keys = [scaffold_key(s) for s in table.column(contract.features.smiles).to_pylist()]
    return np.array([fraction(folds.salt, key) < folds.test_fraction for key in keys], np.bool_)


def scaffold_key(smiles: str) -> str:
    """The Bemis-Murcko scaffold (J. Med. Chem. 1996, 39, 2887) as canonical SMILES.

    Acyclic molecules have none: they are keyed by themselves, not all thrown into one fold. Atom-map
    numbers do not count.
    """
    molecule = read_molecule(smiles)
    scaffold = Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(molecule))  # type: ignore[no-untyped-call]
    return scaffold or Chem.MolToSmiles(molecule)


def fraction(salt: str, key: str) -> float:
    """HMAC-SHA256(salt, key) as a fraction in [0, 1)."""
    digest = hmac.new(salt.encode(), key.encode(), "sha256").digest()
    return int.from_bytes(digest[:8], "big") / 2**64

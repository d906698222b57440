"""Make the tables in public/ and data/: python examples/smiles_lora/make_data.py

The public molecules are MADE UP: substituents are put on rings and chains at random, and RDKit
computes what a model is to read out of their SMILES. The silos' molecules are the measured ones of
examples/solubility.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem
from rdkit.Chem import Descriptors, RWMol

HERE = Path(__file__).parent
CORES = (
    *("c1ccccc1", "c1ccncc1", "c1ccc2ccccc2c1", "c1ccsc1", "c1c[nH]cn1", "c1cnc2[nH]cnc2n1"),
    *("C1CCCCC1", "C1CCNCC1", "C1COCCN1", "C1CCCC1", "O=C1CCCN1", "O=c1cc[nH]c(=O)[nH]1"),
    *("CC", "CCC", "CCCC", "CCCCCC", "CC(C)C", "C=CC", "CCOCC", "CCN", "c1ccc2[nH]ccc2c1"),
    *("c1ccc2c(c1)Cc1ccccc12", "C1CCC2CCCCC2C1", "c1ccoc1"),
)
SUBSTITUENTS = (
    *("C", "CC", "C(C)C", "CCCC", "O", "OC", "N", "N(C)C", "F", "Cl", "Br", "C#N", "C(=O)O"),
    *("C(=O)N", "C(=O)OCC", "C(C)=O", "S(N)(=O)=O", "[N+](=O)[O-]", "C(F)(F)F", "SC", "C=O"),
    *("c1ccccc1", "OCC", "NC(C)=O", "CO", "CCl"),
)
PROPERTIES = ("MolLogP", "TPSA", "MolWt", "MolMR", "NumHDonors", "RingCount", "FractionCSP3")
RECORDS, LONGEST = 6000, 60


def molecule(random: np.random.Generator) -> str:
    """Return the canonical SMILES of a core with zero to four substituents."""
    made = RWMol(Chem.MolFromSmiles(random.choice(CORES)))
    for _ in range(random.integers(0, 5)):
        free = [a.GetIdx() for a in made.GetAtoms() if a.GetTotalNumHs() > 0]
        if not free:
            break
        first = made.GetNumAtoms()
        at = int(random.choice(free))
        made.InsertMol(Chem.MolFromSmiles(random.choice(SUBSTITUENTS)))
        made.AddBond(at, first, Chem.BondType.SINGLE)
        atom = made.GetAtomWithIdx(at)
        if atom.GetIsAromatic() and atom.GetSymbol() == "N":
            atom.SetNumExplicitHs(0)
        Chem.SanitizeMol(made)
    return Chem.MolToSmiles(made)


def main() -> None:
    random, found = np.random.default_rng(0), dict[str, list[float]]()
    compute = [getattr(Descriptors, name) for name in PROPERTIES]
    while len(found) < RECORDS:
        smiles = molecule(random)
        if len(smiles) <= LONGEST:
            of = Chem.MolFromSmiles(smiles)
            found[smiles] = [float(one(of)) for one in compute]
    values = np.array([*found.values()], np.float32)
    table = pa.table({"smiles": [*found]} | dict(zip(PROPERTIES, values.T, strict=True)))
    for i, part in enumerate(("first", "second")):
        rows = table.take(np.arange(i, RECORDS, 2))
        pq.write_table(rows, HERE / "public" / f"{part}.parquet", compression="zstd")
    print(table.num_rows, values.mean(0).round(2), values.std(0).round(2))
    for silo in ("alder", "birch", "cedar"):
        own = pq.read_table(HERE.parent / "solubility" / "data" / f"{silo}.parquet")
        chosen = own.select(["smiles", "solubility"])
        pq.write_table(chosen, HERE / "data" / f"{silo}.parquet", compression="zstd")


if __name__ == "__main__":
    main()

"""Choose the public molecules that cluster folds sort molecules by.

    python benchmarks/leaders.py --data hiv.csv.gz --out platform/data/leaders/nci-1.csv

From the molecules of a public table, in the order of their SHA-256: each is a leader unless its
Tanimoto similarity with an earlier leader is above 0.2 (sphere exclusion), until there are 1,024.
Fingerprints are those of `blindsum.platform.data.clusters`. Left out are mixtures, molecules with
fewer than 6 or more than 50 heavy atoms, and those with other elements than are usual in drugs.

    --compare FILE ...   for other tables: how many clusters there are, how large the largest is,
                         and the mean similarity of held-out molecules with the most similar
                         training molecule, for random, scaffold and cluster folds, over five salts
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.csv
from rdkit import Chem, DataStructs
from rdkit.SimDivFilters import rdSimDivPickers

from blindsum.platform.data.clusters import FINGERPRINT, cluster_of
from blindsum.platform.data.molecules import read_molecule, scaffold_of, write_molecule
from blindsum.platform.data.split import fraction

LEADERS, APART = 1024, 0.8
USUAL = {"C", "N", "O", "S", "P", "F", "Cl", "Br", "I", "B", "Si"}


def molecules_of(path: Path) -> dict[str, Chem.Mol]:
    """Return the distinct molecules of a table, by canonical SMILES."""
    table = pyarrow.csv.read_csv(path)
    column = next(name for name in table.column_names if name.lower() in ("smiles", "drug"))
    read = (read_molecule(text) for text in dict.fromkeys(table[column].to_pylist()))
    return {write_molecule(one): one for one in read if one and one.GetNumAtoms()}


def leaders_of(path: Path) -> list[str]:
    """Return the leaders' SMILES, in their order."""
    found = [
        (smiles, one)
        for smiles, one in molecules_of(path).items()
        if "." not in smiles
        and 6 <= one.GetNumHeavyAtoms() <= 50
        and {atom.GetSymbol() for atom in one.GetAtoms()} <= USUAL
    ]
    found.sort(key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    prints = [FINGERPRINT.GetFingerprint(one) for _, one in found]
    picked = rdSimDivPickers.LeaderPicker().LazyBitVectorPick(prints, len(prints), APART, LEADERS)
    return [found[i][0] for i in picked]


def compare(path: Path, most: int = 4000) -> None:
    """Print what folds of each kind do to a table's molecules."""
    known = list(molecules_of(path).items())
    random = np.random.default_rng(0)
    chosen = [known[i] for i in random.permutation(len(known))[:most]]
    prints = [FINGERPRINT.GetFingerprint(one) for _, one in chosen]
    kinds = {
        "random": [smiles for smiles, _ in chosen],
        "scaffold": [scaffold_of(one) for _, one in chosen],
        "cluster": [cluster_of(one) for _, one in chosen],
    }
    for kind, keys in kinds.items():
        largest = Counter(keys).most_common(1)[0][1] / len(keys)
        shares, nearest = [], []
        for salt in "abcde":
            held_out = np.array([fraction(salt, key) < 0.2 for key in keys])
            trained = [prints[i] for i in np.flatnonzero(~held_out)]
            of = np.flatnonzero(held_out)[:300]
            similar = [max(DataStructs.BulkTanimotoSimilarity(prints[i], trained)) for i in of]
            shares.append(held_out.mean())
            nearest.append(np.mean(similar))
        print(
            f"{path.name} {kind}: {len(set(keys))} keys for {len(keys)} molecules, largest "
            f"{largest:.3f}, held out {np.mean(shares):.3f} +- {np.std(shares):.3f}, similarity "
            f"with the nearest training molecule {np.mean(nearest):.3f} +- {np.std(nearest):.3f}"
        )


def main() -> None:
    """Write the leaders, or compare folds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="public table to choose leaders from")
    parser.add_argument("--out", type=Path, help="where to write them")
    parser.add_argument("--compare", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    if given.data:
        with given.out.open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["smiles"])
            writer.writerows([one] for one in leaders_of(given.data))
    for path in given.compare:
        compare(path)


if __name__ == "__main__":
    main()

"""Clusters of similar molecules that every silo computes alike, with nothing exchanged.

A molecule belongs to the most similar of 1,024 public leaders: Tanimoto similarity of Morgan
fingerprints with radius 2 and 2,048 bits, and the earlier leader of two that are equally similar.
So its cluster depends on the molecule alone, never on which others a silo has. Clusters that are
made from a table, such as Butina's (J. Chem. Inf. Comput. Sci. 1999), would differ from silo to
silo.

The leaders lie in `leaders/nci-1.csv`: molecules of the NCI's DTP AIDS antiviral screen (public
domain), each less than 0.2 similar to all before it (`benchmarks/leaders.py`). They never change:
others would move records between folds.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.data.molecules import read_molecule, write_molecule

FINGERPRINT = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)

LIKE = 0.1
"""Less similar molecules have no more in common than bits that collide: salts, metals, gases."""


def cluster_of(molecule: Chem.Mol) -> str:
    """Return the leader of a molecule's cluster, as SMILES. A molecule that is like no leader is a
    cluster of its own, as canonical SMILES."""
    leaders, prints = _leaders()
    similar = DataStructs.BulkTanimotoSimilarity(FINGERPRINT.GetFingerprint(molecule), prints)
    best = int(np.argmax(similar))
    return leaders[best] if similar[best] >= LIKE else write_molecule(molecule)


@cache
def _leaders() -> tuple[list[str], list[DataStructs.ExplicitBitVect]]:
    text = files(__package__).joinpath("leaders", "nci-1.csv").read_text("ascii")
    found = [row["smiles"] for row in csv.DictReader(text.splitlines())]
    return found, [FINGERPRINT.GetFingerprint(read_molecule(smiles)) for smiles in found]

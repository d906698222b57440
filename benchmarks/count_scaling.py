"""Compute the public constants that scale projected counts of substructures.

    python benchmarks/count_scaling.py --data chembl22_5thresh_long.parquet --every 3 \
        --out platform/data/projections/morgan-1.csv

For each circular substructure of radius 0 to 3 that at least one in FREQUENT molecules has: its
radius, its identifier and the mean of log2(1 + count), rounded to three digits. For each radius, in
a row without an identifier: the root of the mean squared distance of the molecules from these
means, with all substructures of up to that radius.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

from scalings import smiles_of

from blindsum.platform.data.molecules import read_molecule
from blindsum.platform.data.projection import counts

FREQUENT, RADII = 100, (0, 1, 2, 3)


def constants(smiles: list[str]) -> tuple[int, list[tuple[int, str, float]]]:
    """Return the number of usable molecules, and the rows of the file."""
    molecules = [m for text in smiles if (m := read_molecule(text)) and m.GetNumAtoms()]
    found, seen, mean = list[tuple[int, str, float]](), set[int](), dict[int, float]()
    for radius in RADII:
        of_molecule = counts(radius)
        each = [of_molecule(molecule) for molecule in molecules]
        total, present = Counter[int](), Counter[int]()
        for one in each:
            total.update(one)
            present.update(one.keys())
        for identifier in sorted(present.keys() - seen):
            if present[identifier] * FREQUENT >= len(molecules):
                mean[identifier] = float(f"{total[identifier] / len(molecules):.3g}")
                found.append((radius, str(identifier), mean[identifier]))
        seen |= present.keys()
        base = sum(value**2 for value in mean.values())
        squared = [
            base + sum((v - (m := mean.get(i, 0.0))) ** 2 - m**2 for i, v in one.items())
            for one in each
        ]
        found.append((radius, "", float(f"{(sum(squared) / len(squared)) ** 0.5:.3g}")))
    return len(molecules), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="table with a column smiles")
    parser.add_argument("--every", type=int, default=1, help="use every n-th molecule")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    used, found = constants(smiles_of(given.data)[:: given.every])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("radius", "identifier", "value"))
        writer.writerows((radius, one, f"{value:g}") for radius, one, value in found)
    print(f"{used} molecules, {len(found) - len(RADII)} substructures")


if __name__ == "__main__":
    main()

"""Compute a set of public constants that scale RDKit descriptors, from public molecules.

    python benchmarks/scalings.py --data chembl22_5thresh_long.parquet --every 3 \
        --out druglike-1.csv

For each descriptor of RDKit that is finite on every molecule: mean and standard deviation after
values are cut to the 1st and 99th percentile, rounded to three digits. Where that leaves nothing
but one value (rare fragments), values are not cut. Left out are descriptors without two different
values, and those whose scale a job file could not hold (`Ipc`). Molecules that have no descriptors
in Blindsum either (unreadable, or too large) are left out first, and counted.

    --compare FILE   also prints, for another table of molecules, how many descriptors have a scaled
                     mean beyond 1, under this set and each of Blindsum's own
    --page FILE      only writes the page of docs/ that lists Blindsum's own sets; needs no --data
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
from rdkit.Chem import Descriptors

from blindsum.platform.data.descriptors import descriptors, too_large
from blindsum.platform.data.molecules import read_molecule
from blindsum.platform.data.scaling import CLIP, SCALINGS, public_scaling
from blindsum.platform.job.descriptor_sets import SETS

NAMES = [name for name, _ in Descriptors.descList]
MOST_SCALE = 1e12


def smiles_of(path: Path) -> list[str]:
    """Return the distinct SMILES of a table, in its order."""
    csv = ".csv" in path.suffixes
    table = pyarrow.csv.read_csv(path) if csv else pyarrow.parquet.read_table(path)
    return list(dict.fromkeys(table["smiles"].to_pylist()))


def values_of(smiles: list[str], names: list[str]) -> np.ndarray:
    """Return float64 [usable molecules, descriptors]."""
    compute = descriptors(names)
    molecules = [read_molecule(text) for text in smiles]
    return np.array([compute(m) for m in molecules if m and m.GetNumAtoms() and not too_large(m)])


def constants(values: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return center and scale by descriptor."""
    found = {}
    for name, column in zip(NAMES, values.T, strict=True):
        if not np.isfinite(column).all() or np.ptp(column) == 0:
            continue
        cut = np.clip(column, *np.quantile(column, [0.01, 0.99]))
        cut = cut if np.ptp(cut) else column
        center, scale = (float(f"{x:.3g}") for x in (cut.mean(), cut.std()))
        if 1 / MOST_SCALE <= scale <= MOST_SCALE:
            found[name] = center, scale
    return found


def beyond(values: np.ndarray, scaling: dict[str, tuple[float, float]], names: list[str]) -> dict:
    """Return how many of those descriptors have a scaled mean beyond 1, and the greatest."""
    means = []
    for name, column in zip(names, values.T, strict=True):
        center, scale = scaling[name]
        means.append(abs(float(np.clip((column - center) / scale, -CLIP, CLIP).mean())))
    return {
        "descriptors": len(names),
        "mean_beyond_1": sum(mean > 1 for mean in means),
        "greatest_mean": round(max(means), 2),
    }


PAGE = """# Descriptor scaling

Descriptors are scaled as (x - center) / scale, and then cut to ±5. Centers and scales must be
public constants: computed from the silos' data, they would be a release outside the privacy plan.
`data.features.scaling` names one of the following sets. A set never changes: a better one gets a
new name.

- `esol-1`, the default: rounded means and standard deviations of the public ESOL table (Delaney,
  2004; 1,128 small molecules with a mean weight of about 200). It fits solvents and fragments.
- `druglike-1`: 198 descriptors, all of RDKit's that are finite on 7,957 drug-like molecules of
  ChEMBL 22 (CC BY-SA 3.0; every third molecule of DeepChem's selection), apart from six that are
  constant there and `Ipc`, which spans too many powers of ten. Mean and standard deviation after
  each descriptor is cut to its 1st and 99th percentile, or of all values where that leaves only
  one; rounded to three digits.

`benchmarks/scalings.py` computes such a set and writes this page. A descriptor that is missing here
needs its own constants: `NAME: {center: ..., scale: ...}`.

## Sets of descriptors

`data.features.descriptors` takes the names of sets in place of their descriptors, alone or in a
list: `all`, or `[physchem, surface, fr_urea]`. They are scaled by `druglike-1` unless
`data.features.scaling` says otherwise (`esol-1` has only those of `physchem`). The job that the
silos approve has every descriptor written out. A set never changes either.

| Set | Descriptors | What they are |
|---|---|---|
SETS
## Constants

| Descriptor | esol-1: center | scale | druglike-1: center | scale |
|---|---|---|---|---|
"""


SAID = {
    "all": "all that `druglike-1` scales",
    "physchem": "size, lipophilicity, polarity, flexibility and rings; all that `esol-1` scales",
    "pharmacophore": "what a molecule can bind with: donors, acceptors, acids, bases, aromatic and "
    "hydrophobic parts, halogens",
    "surface": "surface areas by partial charge, lipophilicity, refractivity and "
    "electrotopological state, and the other way round",
    "topology": "indices of connectivity, shape and complexity",
    "fragments": "counts of functional groups",
}


def page() -> str:
    """Return the page that lists Blindsum's own sets."""
    told = [f"| `{name}` | {len(named)} | {SAID[name]} |\n" for name, named in SETS.items()]
    sets = [public_scaling(name) for name in SCALINGS]
    lines = []
    for name in sorted({name for one in sets for name in one}, key=str.lower):
        found = [one.get(name) for one in sets]
        cells = [f"{s.center:g} | {s.scale:g}" if s else " | " for s in found]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return PAGE.replace("SETS\n", "".join(told) + "\n") + "\n".join(lines) + "\n"


def in_parallel(smiles: list[str], names: list[str]) -> np.ndarray:
    """Return `values_of`, computed on all cores."""
    parts = [smiles[start : start + 500] for start in range(0, len(smiles), 500)]
    with ProcessPoolExecutor() as pool:
        return np.concatenate(list(pool.map(values_of, parts, [names] * len(parts))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="table with a column smiles")
    parser.add_argument("--every", type=int, default=1, help="use every n-th molecule")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, help="another table with a column smiles")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.page:
        given.page.write_text(page(), "utf-8")
        return
    if given.data is None:
        parser.error("give --data or --page")
    smiles = smiles_of(given.data)[:: given.every]
    values = in_parallel(smiles, NAMES)
    found = constants(values)
    said = {"molecules": len(smiles), "used": len(values), "descriptors": len(found)}
    said["left_out"] = [name for name in NAMES if name not in found]
    if given.out:
        lines = [f"{name},{center:g},{scale:g}" for name, (center, scale) in found.items()]
        given.out.write_text("\n".join(["descriptor,center,scale", *lines]) + "\n")
    if given.compare:
        shared = list(public_scaling("esol-1"))
        others = in_parallel(smiles_of(given.compare)[:: given.every], shared)
        kept = others[np.isfinite(others).all(1)]
        said["compared"] = {"computed now": beyond(kept, found, shared)}
        for one in SCALINGS:
            own = {n: (s.center, s.scale) for n, s in public_scaling(one).items()}
            said["compared"][one] = beyond(kept, own, shared)
    print(json.dumps(said, indent=2), file=sys.stdout)
    if given.json:
        given.json.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Make a basis for features of kind `kernel` from public molecules.

    python benchmarks/kernel_basis.py --data hiv.csv.gz --name nci-1

Molecules are drawn from the column of SMILES with a fixed seed, without those that are too large
for descriptors; the first of them are the landmarks. Writes platform/data/bases/NAME.npz with
everything that `blindsum.platform.data.kernel` needs, and the landmarks' SMILES. It refuses to
replace one: a basis never changes, because models that were trained on it would no longer be what
they were.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas
from rich.progress import track

from blindsum.platform.data.descriptors import too_large
from blindsum.platform.data.kernel import Floats, Landmarks, described, similarity_to
from blindsum.platform.data.molecules import read_molecule, write_molecule

FOLDER = Path(__file__).parent.parent / "platform" / "data" / "bases"
JITTER = 1e-3
"""Added to the landmarks' kernel, whose smallest eigenvalues are rounding errors."""


def landmarks_of(smiles: list[str]) -> Landmarks:
    """Describe molecules."""
    describe, found = described(), []
    for one in track(smiles, "describing"):
        molecule = read_molecule(one)
        if molecule is None:
            raise ValueError("a SMILES that was read once cannot be read again")
        found.append(describe(molecule))
    names = found[0][1]
    return Landmarks(
        np.stack([values for values, _ in found]),
        {n: np.ascontiguousarray(np.stack([counts[n] for _, counts in found]).T) for n in names},
    )


def similarities(of: Landmarks, to: Landmarks) -> Floats:
    """Return the kernel between molecules and landmarks, float32 [molecules, landmarks]."""
    similarity = similarity_to(to)
    return np.stack(
        [
            similarity(values, {n: c[:, i] for n, c in of.counts.items()})
            for i, values in enumerate(track(of.descriptors, "comparing"))
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a table of public molecules")
    parser.add_argument("--smiles", default="smiles")
    parser.add_argument("--name", required=True)
    parser.add_argument("--molecules", type=int, default=8000)
    parser.add_argument("--landmarks", type=int, default=1024)
    parser.add_argument("--components", type=int, default=256)
    given = parser.parse_args()
    path = FOLDER / f"{given.name}.npz"
    if path.exists():
        parser.error(f"{path.name} exists, and a basis never changes: choose another name")
    texts, random = pandas.read_csv(given.data)[given.smiles].dropna(), np.random.default_rng(1)
    chosen = list[str]()
    for text in random.permutation(texts.unique()):
        molecule = read_molecule(text)
        if molecule is not None and not too_large(molecule):
            chosen.append(write_molecule(molecule))
        if len(chosen) == given.molecules:
            break
    every = landmarks_of(chosen)
    first = slice(given.landmarks)
    landmarks = Landmarks(
        every.descriptors[first],
        {n: np.ascontiguousarray(counts[:, first]) for n, counts in every.counts.items()},
    )
    among = similarities(every, landmarks).astype(np.float64)
    values, vectors = np.linalg.eigh(among[first] + JITTER * np.eye(given.landmarks))
    half = vectors / np.sqrt(values)
    spanned = among @ half
    mean = spanned.mean(0)
    _, spread, directions = np.linalg.svd(spanned - mean, full_matrices=False)
    kept = directions[: given.components].T
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        smiles=np.array([s.encode() for s in chosen[first]]),
        descriptors=landmarks.descriptors,
        **landmarks.counts,
        coefficients=(half @ kept).astype(np.float32),
        mean=(mean @ kept).astype(np.float32),
        variance=(spread[: given.components] ** 2 / len(chosen)).astype(np.float32),
    )
    share = np.cumsum(spread**2) / np.sum(spread**2)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {len(chosen)} molecules")
    print("share of the variance:", {k: round(float(share[k - 1]), 2) for k in (32, 64, 128, 256)})


if __name__ == "__main__":
    main()

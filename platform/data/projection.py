"""Counts of circular substructures in a public random projection.

A molecule's substructures, as many as there are atoms and layers around them, have 32-bit
identifiers (Rogers and Hahn, J. Chem. Inf. Model. 2010, 50, 742). Instead of folding them into
bits, every identifier has a row of k random entries, and a molecule gets the sum of its
substructures' rows. Distances between molecules are preserved up to about 1 / sqrt(k) (Johnson and
Lindenstrauss, 1984), also if most entries are 0: they are +2 and -2 with probability 1/8 each, and
0 otherwise (the matrix of Achlioptas, J. Comput. Syst. Sci. 2003, 66, 671, with s = 4 in the form
of Li, Hastie and Church, KDD 2006, equation 3). So 128 dimensions replace 2,048 bits, and under
differential privacy, whose noise grows with the number of parameters, a model can be 16 times as
small.

    y = R^T (log2(1 + counts) - mean) / norm

`mean` and `norm` are public constants, from molecules of ChEMBL (`scaling_of`). R follows from the
job's seed alone: SHAKE-128 of seed and identifier. Nothing is computed from the silos' data.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.data.scaling import CLIP
from blindsum.platform.job.features_section import Projection

CONSTANTS = "morgan-1"
KEPT_ROWS = 2**15
"""The rows of so many identifiers are kept: 16 MiB at 512 dimensions."""

_ENTRIES = np.zeros(256, np.int8)
_ENTRIES[:32], _ENTRIES[32:64] = 2, -2  # of a random byte: an eighth each


@dataclass(frozen=True)
class CountScaling:
    """Public constants: the mean of log2(1 + count) by identifier, for those that are frequent in
    public molecules, and the root of the mean squared distance from it."""

    mean: Mapping[int, float]
    norm: float


@cache
def scaling_of(radius: int) -> CountScaling:
    """Return the constants for substructures of up to that radius.

    They are computed by `benchmarks/count_scaling.py` from 7,957 molecules of ChEMBL 22 (CC BY-SA
    3.0; every third molecule of DeepChem's selection). A row of the file without an identifier has
    the norm.
    """
    text = files(__package__).joinpath("projections", f"{CONSTANTS}.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return CountScaling(
        mean={
            int(row["identifier"]): float(row["value"])
            for row in rows
            if row["identifier"] and int(row["radius"]) <= radius
        },
        norm=next(
            float(row["value"])
            for row in rows
            if not row["identifier"] and int(row["radius"]) == radius
        ),
    )


def counts(radius: int) -> Callable[[Chem.Mol], dict[int, float]]:
    """Return the function from a molecule to log2(1 + count) by identifier."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius)

    def compute(molecule: Chem.Mol) -> dict[int, float]:
        found = generator.GetSparseCountFingerprint(molecule).GetNonzeroElements()
        return {identifier: math.log2(1 + count) for identifier, count in sorted(found.items())}

    return compute


def rows(seed: int, dimensions: int) -> Callable[[int], npt.NDArray[np.int8]]:
    """Return the function from an identifier to its row of R, of entries -2, 0 and 2."""

    @lru_cache(KEPT_ROWS)
    def row(identifier: int) -> npt.NDArray[np.int8]:
        named = f"blindsum projection {seed} {identifier}".encode()
        drawn = hashlib.shake_128(named).digest(dimensions)
        return _ENTRIES[np.frombuffer(drawn, np.uint8)]

    return row


def projected(section: Projection) -> Callable[[Chem.Mol], npt.NDArray[np.float32]]:
    """Return the function from a molecule to its projection, float32 [dimensions], cut to ±CLIP."""
    scaling, of_molecule = scaling_of(section.radius), counts(section.radius)
    row = rows(section.seed, section.dimensions)

    def summed(weights: Mapping[int, float]) -> npt.NDArray[np.float64]:
        if not weights:
            return np.zeros(section.dimensions)
        values = np.array(list(weights.values()))
        found: npt.NDArray[np.float64] = values @ np.array([row(one) for one in weights])
        return found

    center = summed(scaling.mean)

    def project(molecule: Chem.Mol) -> npt.NDArray[np.float32]:
        values = (summed(of_molecule(molecule)) - center) / scaling.norm
        return np.clip(values, -CLIP, CLIP).astype(np.float32)

    return project

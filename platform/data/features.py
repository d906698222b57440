"""Records to features: plain columns, RDKit descriptors, or fingerprints.

Features are scaled by public constants alone. Means computed from the silos' data would be a
release outside the privacy plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors as rdkit_descriptors
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.data.molecules import read_molecule
from blindsum.platform.data.records import Stored, bits
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.job.data_section import Columns, Descriptors, Ecfp, Fingerprint, Scaling

Section = Columns | Descriptors | Ecfp | Fingerprint

# RDKit quotes the molecule it cannot read on stderr, where Ray would log it. Processes that
# hold molecules import this module, so theirs is silent.
rdBase.DisableLog("rdApp.*")

MAX_SMILES = 1000
"""Longer texts count as unreadable: descriptors of huge molecules take minutes, or crash."""

MAX_ATOMS, MAX_WALKS = 300, 30_000
"""Larger molecules have no descriptors and count as unreadable, in every silo alike: a limit in seconds
would drop on one machine what it keeps on another. `MAX_ATOMS` counts heavy atoms, and hydrogens written
as atoms. `MAX_WALKS` counts walks of four bonds, which the Chi and Kappa indices follow one by one."""

CLIP = 5.0
"""Scaled features are cut to [-CLIP, CLIP]: one odd record cannot swamp a clipped gradient."""

PUBLIC_SCALING: dict[str, Scaling] = {
    name: Scaling(center=center, scale=scale)
    for name, center, scale in (
        # Rounded means and deviations over the public ESOL table (Delaney, 2004): constants
        # of drug-like organic chemistry, not of any silo.
        ("MolLogP", 2.5, 1.9),
        ("MolWt", 200.0, 100.0),
        ("TPSA", 35.0, 35.0),
        ("NumHDonors", 0.7, 1.1),
        ("NumHAcceptors", 2.1, 2.1),
        ("NumRotatableBonds", 2.2, 2.6),
        ("RingCount", 1.4, 1.3),
        ("NumAromaticRings", 0.9, 1.0),
        ("FractionCSP3", 0.44, 0.37),
        ("HeavyAtomCount", 13.0, 7.0),
        ("MolMR", 54.0, 25.0),
        ("LabuteASA", 83.0, 40.0),
        ("BalabanJ", 2.7, 0.6),
        ("BertzCT", 330.0, 280.0),
        ("NumHeteroatoms", 3.3, 2.8),
        ("qed", 0.55, 0.15),
    )
}


@dataclass(frozen=True)
class Featurised:
    """`features` float32 [usable records, features], of fingerprints as a CSR array; `usable` bool
    [records]."""

    features: Stored
    usable: npt.NDArray[np.bool_]


def needed_columns(section: Section) -> tuple[list[str], list[str]]:
    """Names of the numeric and of the text columns that the features are made from."""
    if section.kind == "columns":
        return list(section.columns), []
    return [], [] if section.kind == "fingerprint" else [section.smiles]


def feature_count(section: Section) -> int:
    """Length of a record's feature vector."""
    if section.kind == "columns":
        return len(section.columns)
    return len(section.descriptors) if section.kind == "descriptors" else section.bits


def descriptor_scaling(section: Descriptors) -> dict[str, Scaling]:
    """Every descriptor with its public constants.

    Raises:
        JobError: RDKit has no such descriptor, or there are no constants for it.
    """
    known = {name for name, _ in rdkit_descriptors.descList}
    named = section.descriptors
    unknown = [name for name in named if name not in known]
    if unknown:
        raise JobError(
            f"data.features.descriptors: RDKit has no descriptor {unknown[0]!r}",
            "Names are those of rdkit.Chem.Descriptors, such as MolLogP or TPSA.",
        )
    if isinstance(named, dict):
        return named
    bare = [name for name in named if name not in PUBLIC_SCALING]
    if bare:
        raise JobError(
            f"data.features.descriptors: no public scaling is known for {bare[0]!r}",
            f"Write it as a key: {bare[0]}: {{center: ..., scale: ...}}.",
        )
    return {name: PUBLIC_SCALING[name] for name in named}


def featurise(table: pa.Table, section: Section) -> Featurised:
    """Compute the features of a checked table.

    Raises:
        JobError: a descriptor is unknown.
        DataError: a fingerprint is none.
    """
    if section.kind == "columns":
        columns = [
            _scaled(table.column(name).to_numpy().astype(np.float64), scaling)
            for name, scaling in section.columns.items()
        ]
        return Featurised(
            np.stack(columns, axis=1).astype(np.float32), np.ones(table.num_rows, np.bool_)
        )
    if section.kind == "fingerprint":
        return Featurised(_positions(table, section), np.ones(table.num_rows, np.bool_))
    compute = ecfp(section) if section.kind == "ecfp" else _descriptors(section)
    usable = np.zeros(table.num_rows, np.bool_)
    found = []
    for row, smiles in enumerate(table.column(section.smiles).to_pylist()):
        molecule = read_molecule(smiles) if len(smiles) <= MAX_SMILES else None
        if molecule is None or molecule.GetNumAtoms() == 0:
            continue
        values = compute(molecule)
        usable[row] = bool(np.isfinite(values).all())
        if usable[row]:
            found.append(values)
    size = feature_count(section)
    if section.kind == "ecfp":
        return Featurised(bits(found, size), usable)
    return Featurised(np.array(found, np.float32).reshape(len(found), size), usable)


def _positions(table: pa.Table, section: Fingerprint) -> Stored:
    lists = table.column(section.column).combine_chunks()
    found = lists.flatten().cast(pa.int64()).to_numpy(zero_copy_only=False)
    ends = np.cumsum([0, *pc.list_value_length(lists).to_pylist()])
    parts = [found[a:b] for a, b in pairwise(ends)]
    if lists.flatten().null_count or any(
        len(p) and (p[0] < 0 or p[-1] >= section.bits or (np.diff(p) <= 0).any()) for p in parts
    ):
        raise DataError(
            f"column '{section.column}' has lists that are not ascending positions from 0 to "
            f"{section.bits - 1}",
            "Check data.features.bits, and that blindsum prepare wrote the table.",
        )
    return bits(parts, section.bits)


_Compute = Callable[[Chem.Mol], npt.NDArray[Any]]


def _descriptors(section: Descriptors) -> _Compute:
    scalings = descriptor_scaling(section)
    bare = descriptors(list(scalings))

    def compute(molecule: Chem.Mol) -> npt.NDArray[np.float32]:
        values = [
            _scaled(np.array(value, np.float64), scaling)
            for value, scaling in zip(bare(molecule), scalings.values(), strict=True)
        ]
        return np.array(values, np.float32)

    return compute


def descriptors(names: Sequence[str]) -> Callable[[Chem.Mol], list[float]]:
    """Gives a molecule's RDKit descriptors, unscaled; NaN where there is none, or the molecule is too
    large for them."""
    functions = dict(rdkit_descriptors.descList)

    def one(name: str, molecule: Chem.Mol) -> float:
        try:
            return float(functions[name](molecule))
        except (ArithmeticError, ValueError, RuntimeError):  # RDKit's, of odd molecules
            return float("nan")

    def compute(molecule: Chem.Mol) -> list[float]:
        if _too_large(molecule):
            return [float("nan")] * len(names)
        return [one(name, molecule) for name in names]

    return compute


def _too_large(molecule: Chem.Mol) -> bool:
    """Whether a descriptor could take longer than a good part of a second."""
    if molecule.GetNumAtoms() > MAX_ATOMS:
        return True
    # A walk of four bonds is two walks of two from the atom in its middle.
    walks_of_two = [sum(n.GetDegree() for n in a.GetNeighbors()) for a in molecule.GetAtoms()]
    return bool(sum(count * count for count in walks_of_two) > MAX_WALKS)


def ecfp(section: Ecfp) -> _Compute:
    """Gives the positions of a molecule's bits, ascending."""
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=section.radius, fpSize=section.bits, includeChirality=section.chirality
    )

    def compute(molecule: Chem.Mol) -> npt.NDArray[np.float32]:
        on = generator.GetFingerprint(molecule).GetOnBits()
        return np.fromiter(on, np.int64)

    return compute


def _scaled(values: npt.NDArray[np.float64], scaling: Scaling) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # infinity is beyond CLIP like any other number
        return np.clip((values - scaling.center) / scaling.scale, -CLIP, CLIP)

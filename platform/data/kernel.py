"""Kernel principal components: which public molecules a molecule is like, in few numbers.

    k(x, z) = exp(-|d(x) - d(z)|^2 / n) + (t1(x, z) + t2(x, z) + t3(x, z)) / 2

d are the n descriptors that `druglike-1` scales, of which an undefined one counts as its center;
t1 to t3 are Tanimoto similarities, the sum of minima over the sum of maxima, of counts of circular
substructures by atom type and by pharmacophoric feature (ECFP and FCFP, radius 2; Rogers and Hahn,
J. Chem. Inf. Model. 2010, 50, 742) and of MACCS keys. Each term is a kernel, and so is their sum
(Ralaivola et al., Neural Networks 2005, 18, 1093).

The components are those of greatest variance over public molecules (kernel PCA: Schoelkopf, Smola
and Mueller, Neural Computation 1998, 10, 1299), of k as m landmarks among them span it (Nystroem:
Williams and Seeger, NIPS 2000):

    y_j = (sum_i k(x, z_i) A_ij - mean_j) / s_j        s_j^2 ~ variance_j + 0.3 mean(variance)

A is [landmarks, dimensions]. y is scaled to a mean square of 1 over the public molecules. Nothing
is computed from the silos' data: landmarks, A, means and variances are a file of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from blindsum.platform.data.descriptors import descriptors, too_large
from blindsum.platform.data.scaling import CLIP, public_scaling
from blindsum.platform.job.features_section import Kernel

SCALING = "druglike-1"
RIDGE = 0.3
"""Share of the mean variance that is added to each: later components do not become pure noise."""

_COUNTS = {"ecfp": 2048, "fcfp": 1024, "maccs": 167}
"""The fingerprints, and the places that each is folded to."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Landmarks:
    """What the kernel needs of molecules.

    Attributes:
        descriptors: scaled, float32 [molecules, descriptors].
        counts: by fingerprint, uint8 [places, molecules].
    """

    descriptors: Floats
    counts: dict[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Basis:
    """Landmarks, and the components that they span.

    Attributes:
        coefficients: float32 [landmarks, components].
        mean: of each component over the public molecules, float32 [components].
        variance: likewise, in falling order.
    """

    landmarks: Landmarks
    coefficients: Floats
    mean: Floats
    variance: Floats


@cache
def basis_of(name: str) -> Basis:
    """Return a named basis.

    nci-1 is made by `benchmarks/kernel_basis.py` from structures of the AIDS antiviral screen (NCI
    Developmental Therapeutics Program, public domain): 8,000 of them, of which 1,024 are landmarks.
    """
    source = files(__package__).joinpath("bases", f"{name}.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return Basis(
            landmarks=Landmarks(found["descriptors"], {one: found[one] for one in _COUNTS}),
            coefficients=found["coefficients"],
            mean=found["mean"],
            variance=found["variance"],
        )


def described() -> Callable[[Chem.Mol], tuple[Floats, dict[str, npt.NDArray[np.uint8]]]]:
    """Return the function from a molecule to its scaled descriptors, float32 [descriptors], and to
    its counts by fingerprint, uint8 [places]."""
    scalings = public_scaling(SCALING)
    of_molecule = descriptors(list(scalings))
    center = np.array([one.center for one in scalings.values()])
    scale = np.array([one.scale for one in scalings.values()])
    features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    ecfp = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=_COUNTS["ecfp"])
    fcfp = rdFingerprintGenerator.GetMorganGenerator(
        radius=2, fpSize=_COUNTS["fcfp"], atomInvariantsGenerator=features
    )

    def compute(molecule: Chem.Mol) -> tuple[Floats, dict[str, npt.NDArray[np.uint8]]]:
        with np.errstate(over="ignore"):
            values = np.clip((np.array(of_molecule(molecule)) - center) / scale, -CLIP, CLIP)
        keys = np.zeros(_COUNTS["maccs"], np.uint8)
        keys[list(rdMolDescriptors.GetMACCSKeysFingerprint(molecule).GetOnBits())] = 1
        found = {"maccs": keys}
        for name, generator in (("ecfp", ecfp), ("fcfp", fcfp)):
            counts = generator.GetCountFingerprintAsNumPy(molecule)
            found[name] = np.minimum(counts, 255).astype(np.uint8)
        return np.nan_to_num(values).astype(np.float32), found

    return compute


def similarity_to(
    landmarks: Landmarks,
) -> Callable[[Floats, dict[str, npt.NDArray[np.uint8]]], Floats]:
    """Return the function from what `described` says of a molecule to k(x, z) for each landmark z,
    float32 [landmarks]."""
    sums = {name: counts.sum(0, dtype=np.float32) for name, counts in landmarks.counts.items()}
    each = 1 / landmarks.descriptors.shape[1]

    def tanimoto(name: str, counts: npt.NDArray[np.uint8]) -> Floats:
        at = np.flatnonzero(counts)
        shared = np.minimum(landmarks.counts[name][at], counts[at, None]).sum(0, dtype=np.float32)
        total = sums[name] + counts.sum(dtype=np.float32) - shared
        found: Floats = shared / np.maximum(total, 1)
        return found

    def similarity(values: Floats, counts: dict[str, npt.NDArray[np.uint8]]) -> Floats:
        distance = np.square(landmarks.descriptors - values).sum(1)
        similar = sum((tanimoto(name, counts[name]) for name in _COUNTS), np.float32(0))
        found: Floats = np.exp(-each * distance) + np.float32(0.5) * similar
        return found

    return similarity


def components(section: Kernel) -> Callable[[Chem.Mol], Floats]:
    """Return the function from a molecule to its components, float32 [dimensions], cut to ±CLIP;
    NaN if it is too large for descriptors."""
    basis, known = basis_of(section.basis), slice(section.dimensions)
    variance = basis.variance[known].astype(np.float64)
    ridged = variance + RIDGE * variance.mean()
    scale = np.sqrt(ridged * np.mean(variance / ridged))
    describe, similarity = described(), similarity_to(basis.landmarks)
    coefficients = basis.coefficients[:, known]

    def compute(molecule: Chem.Mol) -> Floats:
        if too_large(molecule):
            return np.full(section.dimensions, np.nan, np.float32)
        found = similarity(*describe(molecule)) @ coefficients - basis.mean[known]
        values: Floats = np.clip(found / scale, -CLIP, CLIP).astype(np.float32)
        return values

    return compute

"""Kernel principal components: compared with RDKit's own similarities, and with what kernel PCA
promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError
from rdkit import Chem, DataStructs
from rdkit.Chem import Descriptors, rdFingerprintGenerator, rdMolDescriptors

from blindsum.platform.data.features import features_of
from blindsum.platform.data.kernel import basis_of, described, similarity_to
from blindsum.platform.data.molecule_work import KernelComponents
from blindsum.platform.data.reasons import MAX_ATOMS, TOO_LARGE
from blindsum.platform.data.records import dense
from blindsum.platform.data.scaling import public_scaling
from blindsum.platform.job.features_section import Kernel
from blindsum.platform.training.trees.units import units_of

DATA = Path(__file__).resolve().parents[2] / "platform" / "data"
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "[Na+].[Cl-]"]


def section(**settings: Any) -> Kernel:
    return Kernel.model_validate({"kind": "kernel"} | settings)


def made(smiles: list[str], **settings: Any) -> npt.NDArray[np.float32]:
    found = features_of(section(**settings)).compute(pa.table({"smiles": smiles}))
    assert found.usable.all()
    return np.asarray(dense(found.features), np.float32)


def landmarks() -> list[str]:
    with np.load(DATA / "bases" / "nci-1.npz") as found:
        return [one.decode() for one in found["smiles"]]


def kernel_by_hand(one: str, other: str) -> float:
    """k of the module, by RDKit's own similarities."""
    molecules = [Chem.MolFromSmiles(s) for s in (one, other)]
    invariants = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    generators = (
        rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048),
        rdFingerprintGenerator.GetMorganGenerator(
            radius=2, fpSize=1024, atomInvariantsGenerator=invariants
        ),
    )
    alike = [
        DataStructs.TanimotoSimilarity(*(g.GetCountFingerprint(m) for m in molecules))
        for g in generators
    ]
    keys = [rdMolDescriptors.GetMACCSKeysFingerprint(m) for m in molecules]
    alike.append(DataStructs.TanimotoSimilarity(*keys))
    scaled = []
    for molecule in molecules:
        row = []
        for name, scaling in public_scaling("druglike-1").items():
            value = (getattr(Descriptors, name)(molecule) - scaling.center) / scaling.scale
            row.append(0.0 if np.isnan(value) else min(max(value, -5.0), 5.0))
        scaled.append(np.array(row))
    distance = float(np.sum((scaled[0] - scaled[1]) ** 2))
    return float(np.exp(-distance / len(scaled[0])) + sum(alike) / 2)


def test_similarities_are_rdkits() -> None:
    known, describe = landmarks(), described()
    similarity = similarity_to(basis_of("nci-1").landmarks)
    for smiles in SMILES:
        found = similarity(*describe(Chem.MolFromSmiles(smiles)))
        for i in range(0, len(known), 100):
            assert found[i] == pytest.approx(kernel_by_hand(smiles, known[i]), abs=2e-5)


def test_a_molecule_that_is_a_landmark_is_most_like_itself() -> None:
    known, describe = landmarks(), described()
    similarity = similarity_to(basis_of("nci-1").landmarks)
    for i in range(0, len(known), 50):
        found = similarity(*describe(Chem.MolFromSmiles(known[i])))
        assert found[i] == pytest.approx(2.5, abs=1e-4) and found.argmax() == i


def test_components_are_those_of_greatest_variance() -> None:
    """Their inner products are the centered kernel's, as far as 256 components hold it."""
    basis, describe = basis_of("nci-1"), described()
    similarity = similarity_to(basis.landmarks)
    rows = np.array([similarity(*describe(Chem.MolFromSmiles(s))) for s in landmarks()[:200]])
    found = rows @ basis.coefficients - basis.mean
    kernel = rows[:, :200] - rows.mean(1, keepdims=True) - rows.mean(1)[:200] + rows.mean()
    similar = np.corrcoef((found @ found.T).ravel(), kernel.ravel())[0, 1]
    assert similar > 0.95
    assert (np.diff(basis.variance) <= 0).all()
    np.testing.assert_allclose(found.var(0)[:8], basis.variance[:8], rtol=0.5)


def test_fewer_dimensions_are_the_first_ones_and_have_a_mean_square_of_one() -> None:
    known = landmarks()[:300]
    wide, narrow = made(known, dimensions=64), made(known, dimensions=16)
    for column in range(16):
        ratio = wide[:, column] / narrow[:, column]
        assert ratio.std() < 1e-3 * abs(ratio.mean()), "the same, at another scale"
    for found in (wide, narrow):
        # 1 over all 8,000 molecules; landmarks lie wholly in what they span themselves.
        assert 1.0 < np.square(found).mean() < 1.4
    assert np.abs(made(SMILES)).max() <= 5


def test_salts_and_metals_are_usable_and_what_is_too_large_is_not() -> None:
    made(["[Na+].[Cl-]", "[Cu+2]", "C[Hg]C", "O=[As]O[As]=O"], dimensions=8)
    huge = "C" * (MAX_ATOMS + 1)
    found = features_of(section()).compute(pa.table({"smiles": [huge, "CCO", "nonsense"]}))
    assert found.usable.tolist() == [False, True, False]
    assert found.reasons[0] == TOO_LARGE


def test_results_are_the_same_in_every_process_and_kept_by_their_settings() -> None:
    program = (
        "from blindsum.platform.data.kernel import components\n"
        "from blindsum.platform.job.features_section import Kernel\n"
        "from rdkit import Chem\n"
        "compute = components(Kernel(kind='kernel', dimensions=8))\n"
        "print(','.join(map(str, compute(Chem.MolFromSmiles('c1ccccc1O')))))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    here = made(["c1ccccc1O"], dimensions=8)[0]
    np.testing.assert_allclose(np.array(said.split(","), float), here, rtol=1e-4)
    one, other = (KernelComponents(section(dimensions=d)).settings for d in (8, 9))
    assert one != other and '"basis":"nci-1"' in one


@pytest.mark.parametrize(
    "wrong", [{"dimensions": 7}, {"dimensions": 257}, {"basis": "mine"}, {"radius": 2}]
)
def test_what_the_section_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**wrong)


def test_trees_name_components() -> None:
    assert [one.name for one in units_of(section(dimensions=8))][:2] == [
        "component 0",
        "component 1",
    ]

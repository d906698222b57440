"""MACCS keys and projections: compared with RDKit's own, and with what the papers promise."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import MACCSkeys, rdFingerprintGenerator

from blindsum.platform.data import projection
from blindsum.platform.data.features import features_of
from blindsum.platform.data.molecule_work import MaccsKeys, ProjectedCounts
from blindsum.platform.data.projection import rows, scaling_of
from blindsum.platform.data.records import dense
from blindsum.platform.job.features_section import Maccs, Projection
from blindsum.platform.training.trees.bins import bins_of
from blindsum.platform.training.trees.units import units_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "assays" / "data" / "birch.parquet"
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "[Na+].[Cl-]"]


def section(**settings: int) -> Projection:
    return Projection.model_validate({"kind": "projection"} | settings)


def made(kind: Projection | Maccs, smiles: list[str]) -> npt.NDArray[np.float32]:
    found = features_of(kind).compute(pa.table({"smiles": smiles}))
    assert found.usable.all()
    return np.asarray(dense(found.features), np.float32)


def test_maccs_keys_are_rdkits() -> None:
    found = made(Maccs(kind="maccs"), SMILES)
    for row, smiles in zip(found, SMILES, strict=True):
        keys = MACCSkeys.GenMACCSKeys(Chem.MolFromSmiles(smiles))  # type: ignore[attr-defined]
        assert [n - 1 for n in keys.GetOnBits()] == np.flatnonzero(row).tolist()
        assert keys.GetNumBits() == 167 and not keys.GetBit(0)


def by_hand(one: Projection, smiles: str) -> npt.NDArray[np.float64]:
    """The formula of the module with a matrix that is written out."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=one.radius)
    scaling = scaling_of(one.radius)
    weights = {identifier: -mean for identifier, mean in scaling.mean.items()}
    fingerprint = generator.GetSparseCountFingerprint(Chem.MolFromSmiles(smiles))
    for identifier, count in fingerprint.GetNonzeroElements().items():
        weights[identifier] = weights.get(identifier, 0.0) + np.log2(1 + count)
    total = np.zeros(one.dimensions)
    for identifier, weight in weights.items():
        named = f"blindsum projection {one.seed} {identifier}".encode()
        for i, byte in enumerate(hashlib.shake_128(named).digest(one.dimensions)):
            total[i] += weight * (2 if byte < 32 else -2 if byte < 64 else 0)
    return np.clip(total / scaling.norm, -5, 5)


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_projections_are_those_of_the_formula(radius: int) -> None:
    one = section(radius=radius, dimensions=32, seed=7)
    expected = [by_hand(one, smiles) for smiles in SMILES]
    np.testing.assert_allclose(made(one, SMILES), expected, atol=1e-5)


def test_entries_have_mean_0_and_variance_1() -> None:
    row = rows(1, 512)
    entries = np.array([row(identifier) for identifier in range(2000)])
    values, counts = np.unique(entries, return_counts=True)
    assert values.tolist() == [-2, 0, 2]
    shares = counts / entries.size
    np.testing.assert_allclose(shares, [0.125, 0.75, 0.125], atol=0.005)
    # The rows of different identifiers, and the columns, have nothing to do with each other.
    between = entries[:1000].astype(float) @ entries[1000:].T / 512
    assert abs(between.mean()) < 0.005 and between.std() == pytest.approx(512**-0.5, rel=0.05)


def test_distances_survive_and_the_scale_is_about_one() -> None:
    """Johnson and Lindenstrauss: to about sqrt(2 / dimensions), whatever the seed."""
    smiles = pa.parquet.read_table(EXAMPLE)["smiles"].to_pylist()[:60]
    of_molecule = projection.counts(2)
    each = [of_molecule(Chem.MolFromSmiles(one)) for one in smiles]
    every = sorted({identifier for one in each for identifier in one})
    counts = np.array([[one.get(identifier, 0.0) for identifier in every] for one in each])
    true = np.linalg.norm(counts[:, None] - counts[None], axis=2)
    apart = np.triu(true > 0, 1)
    for seed in (1, 2, 3):
        found = made(section(dimensions=512, seed=seed), smiles).astype(float)
        said = np.linalg.norm(found[:, None] - found[None], axis=2)
        ratio = said[apart] / true[apart] * scaling_of(2).norm / 512**0.5
        assert ratio.mean() == pytest.approx(1.0, abs=0.06)
        assert ratio.std() < 0.12
        assert 0.2 < np.mean(found**2) < 2


def test_another_seed_is_another_projection_and_the_same_one_the_same() -> None:
    np.testing.assert_array_equal(made(section(seed=3), SMILES), made(section(seed=3), SMILES))
    assert not np.allclose(made(section(seed=3), SMILES), made(section(seed=4), SMILES))
    wide, narrow = made(section(dimensions=64), SMILES), made(section(dimensions=32), SMILES)
    np.testing.assert_allclose(wide[:, :32], narrow, atol=1e-5)


def test_results_are_the_same_in_every_process() -> None:
    """Nothing depends on the order in which a process hashes."""
    program = (
        "from blindsum.platform.data.projection import projected\n"
        "from blindsum.platform.job.features_section import Projection\n"
        "from rdkit import Chem\n"
        "project = projected(Projection(kind='projection', dimensions=32))\n"
        "print(project(Chem.MolFromSmiles('c1ccccc1O')).tolist())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_kept_results_depend_on_every_setting() -> None:
    """Or a silo would train on what another job projected."""
    parts = [
        ProjectedCounts(section()),
        ProjectedCounts(section(seed=2)),
        ProjectedCounts(section(radius=1)),
        ProjectedCounts(section(dimensions=64)),
        MaccsKeys(Maccs(kind="maccs")),
    ]
    assert len({str(part.inputs("digest")) for part in parts}) == len(parts)


def test_settings_have_limits() -> None:
    for wrong in ({"dimensions": 16}, {"dimensions": 513}, {"radius": 4}, {"seed": -1}):
        with pytest.raises(ValidationError):
            section(**wrong)


def test_the_public_constants_never_change() -> None:
    """Silos with another file under this name would train on other features."""
    path = ROOT / "platform" / "data" / "projections" / f"{projection.CONSTANTS}.csv"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == "66d0a03a73c1ec8b"
    with path.open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [row["radius"] for row in listed if not row["identifier"]] == ["0", "1", "2", "3"]
    norms = [scaling_of(radius).norm for radius in range(4)]
    assert norms == sorted(norms) and norms[0] > 1
    assert scaling_of(0).mean.keys() < scaling_of(1).mean.keys() < scaling_of(3).mean.keys()


def test_trees_split_keys_in_the_middle_and_projections_at_normal_quantiles() -> None:
    keys, numbers = Maccs(kind="maccs"), section(dimensions=32)
    assert [one.tolist() for one in bins_of(keys, 8, {}).edges] == [[0.5]] * 166
    assert units_of(keys)[0].name == "MACCS key 1" and units_of(keys)[165].name == "MACCS key 166"
    edges = bins_of(numbers, 8, {}).edges
    assert len(edges) == 32 and all(len(one) == 7 and one[3] == 0 for one in edges)
    assert [one.name for one in units_of(numbers)[:2]] == ["projection 0", "projection 1"]

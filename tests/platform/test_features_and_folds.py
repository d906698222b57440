"""Features, compared with RDKit's, and folds that keep a series together."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Descriptors as rdkit_descriptors
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.data.descriptors import descriptors
from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import dense
from blindsum.platform.data.scaling import CLIP, SCALINGS, public_scaling
from blindsum.platform.data.split import fraction, scaffold_key
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import JobError
from blindsum.platform.job.features_section import (
    Columns,
    Descriptors,
    Ecfp,
    FeatureColumn,
    Scaling,
)
from blindsum.platform.job.file import load_job

ROOT = Path(__file__).resolve().parents[2]
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O"]


def table(smiles: list[str]) -> pa.Table:
    return pa.table({"smiles": smiles})


def test_descriptors_are_rdkits_scaled_by_public_constants() -> None:
    section = Descriptors(kind="descriptors", descriptors=["MolWt", "TPSA"])
    made = features_of(section).compute(table(SMILES))
    for row, smiles in zip(made.features, SMILES, strict=True):
        molecule = Chem.MolFromSmiles(smiles)
        weight = (rdkit_descriptors.MolWt(molecule) - 200.0) / 100.0
        assert row[0] == pytest.approx(np.clip(weight, -CLIP, CLIP), rel=1e-6)
    assert features_of(section).width == made.features.shape[1] == 2


def test_fingerprints_are_rdkits() -> None:
    made = features_of(Ecfp(kind="ecfp", bits=256, radius=2)).compute(table(SMILES))
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=256)
    expected = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(s)) for s in SMILES]
    np.testing.assert_array_equal(dense(made.features), np.array(expected, np.float32))


def iron_clique(atoms: int) -> str:
    """Return a molecule whose atoms are all bound to each other: few atoms, very many paths."""
    molecule = Chem.RWMol()
    for atom in range(atoms):
        molecule.AddAtom(Chem.Atom("Fe"))
        for other in range(atom):
            molecule.AddBond(atom, other, Chem.BondType.SINGLE)
    return str(Chem.MolToSmiles(molecule, canonical=False))


def test_molecules_too_large_for_a_descriptor_are_unusable_and_cost_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ipc takes 23 s for a chain of 900 carbons, and Chi4n a minute for 14 atoms all bound to each
    other."""
    computed: list[int] = []
    count = "HeavyAtomCount", lambda m: computed.append(m.GetNumAtoms()) or m.GetNumAtoms()
    monkeypatch.setattr(rdkit_descriptors, "descList", [count])
    one = descriptors(["HeavyAtomCount"])
    assert Chem.MolFromSmiles(iron_clique(14)).GetNumAtoms() == 14
    for text in ("C" * 900, "C" * 301, iron_clique(9), iron_clique(14)):
        assert np.isnan(one(Chem.MolFromSmiles(text))).all()
    assert computed == []
    # The largest of 41,000 molecules in a public screen (222 atoms, 9,300 walks), ferrocene and
    # C60 are well within the limits.
    ferrocene = "[Fe]12345678(C9C1C2C3C49)C1C5C6C7C81"
    for text in ("C" * 300, "C(C)(C)" * 90, iron_clique(8), ferrocene):
        assert np.isfinite(one(Chem.MolFromSmiles(text))).all()


def test_a_molecule_too_large_for_descriptors_is_counted_and_still_has_a_fingerprint() -> None:
    texts = ["CCO", "C" * 301]
    section = Descriptors(kind="descriptors", descriptors={"Ipc": Scaling(center=0, scale=1)})
    assert features_of(section).compute(table(texts)).usable.tolist() == [True, False]
    assert features_of(Ecfp(kind="ecfp")).compute(table(texts)).usable.all()


def test_an_outlier_is_clipped() -> None:
    section = Columns(kind="columns", columns={"x": FeatureColumn(center=0, scale=1)})
    made = features_of(section).compute(pa.table({"x": [0.5, 1e9, -1e9]}))
    assert made.features[:, 0].tolist() == [0.5, CLIP, -CLIP]


def test_descriptors_need_rdkits_names_and_public_constants() -> None:
    def computed(names: list[str]) -> None:
        features_of(Descriptors(kind="descriptors", descriptors=names)).compute(table(SMILES))

    with pytest.raises(JobError, match="RDKit has no descriptor 'LogP'"):
        computed(["LogP"])
    unknown = "no public scaling is known for 'Chi0' in esol-1. Set data.features.scaling: druglike"
    with pytest.raises(JobError, match=unknown):
        computed(["Chi0"])
    given_ = Descriptors(kind="descriptors", descriptors={"Chi0": Scaling(center=9, scale=5)})
    assert features_of(given_).compute(table(SMILES)).features.shape == (3, 1)
    known = {name for name, _ in rdkit_descriptors.descList}
    assert all(set(public_scaling(name)) <= known for name in SCALINGS)


def test_a_series_has_one_key_and_acyclic_molecules_their_own() -> None:
    assert scaffold_key("c1ccccc1O") == scaffold_key("Oc1ccccc1C") == "c1ccccc1"
    assert scaffold_key("OCC") == scaffold_key("CCO") == "CCO"
    assert scaffold_key("CCO") != scaffold_key("CCCO")


GOLDEN = [
    ("CO", "CO", "0x1.38a4a6334ff37p-1"),
    ("[CH3:1][OH:2]", "CO", "0x1.38a4a6334ff37p-1"),
    ("OCC", "CCO", "0x1.d60ae0107f7b7p-4"),
    ("[CH3:1][C@H:2]([CH3:3])O", "CC(C)O", "0x1.52189ad7361acp-2"),
    ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O", "0x1.c03a373517197p-1"),
    ("c1ccccc1O", "c1ccccc1", "0x1.ea1f4f37b3262p-1"),
    ("Oc1ccccc1C(=O)NCCc1ccncc1", "O=C(NCCc1ccncc1)c1ccccc1", "0x1.0b53d34017f12p-1"),
    ("[cH:1]1[cH:2][cH:3][cH:4][cH:5][c:6]1[Br:7]", "c1ccccc1", "0x1.ea1f4f37b3262p-1"),
    ("CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1", "0x1.ea1f4f37b3262p-1"),
    ("Cn1cnc2c1c(=O)n(C)c(=O)n2C", "O=c1[nH]c(=O)c2[nH]cnc2[nH]1", "0x1.3ec559761402bp-1"),
    ("C1CC[C@@H]2CCCC[C@@H]2C1", "C1CC[C@H]2CCCC[C@H]2C1", "0x1.35fb51733e37fp-1"),
    ("[2H]C([2H])([2H])O", "[2H]C([2H])([2H])O", "0x1.1728e4243bd04p-1"),
    ("[Na+].[O-]C(=O)c1ccccc1", "c1ccccc1", "0x1.ea1f4f37b3262p-1"),
    ("C/C=C/C(=O)O", "C/C=C/C(=O)O", "0x1.ae50b25bd5a77p-1"),
]
"""SMILES, key, and the key's fraction with the salt `golden`. Every silo and version must give
these: another value moves records between folds. If a new RDKit changes a key, announce it."""


@pytest.mark.parametrize(("smiles", "key", "expected"), GOLDEN)
def test_keys_and_fractions_are_those_of_every_silo_and_version(
    smiles: str, key: str, expected: str
) -> None:
    assert scaffold_key(smiles) == key
    assert fraction("golden", key).hex() == expected


def test_atom_map_numbers_change_neither_key_nor_features() -> None:
    mapped = [
        "[CH3:1][OH:2]",
        "[CH3:1][C@H:2]([CH3:3])O",
        "[H:1][O:2][CH3:3]",
        "[CH3:7][c:1]1ccccc1",
    ]
    plain = ["CO", "CC(C)O", "CO", "Cc1ccccc1"]
    assert [scaffold_key(s) for s in mapped] == [scaffold_key(s) for s in plain]
    assert scaffold_key("[2H:1]C") == scaffold_key("[2H]C") != scaffold_key("C")  # isotopes stay
    section = Ecfp(kind="ecfp", bits=256, chirality=True)
    found = [
        dense(features_of(section).compute(table(texts)).features) for texts in (mapped, plain)
    ]
    np.testing.assert_array_equal(*found)


@given(salt=st.text(min_size=1), key=st.text())
def test_fractions_are_between_0_and_1_and_do_not_change(salt: str, key: str) -> None:
    assert 0 <= fraction(salt, key) < 1
    assert fraction(salt, key) == fraction(salt, key)


def test_fractions_are_spread_evenly_and_depend_on_the_salt() -> None:
    values = [fraction("s", str(i)) for i in range(5000)]
    assert abs(np.mean(np.array(values) < 0.2) - 0.2) < 0.02
    assert fraction("s", "key") != fraction("t", "key")


def test_the_example_keeps_every_series_in_one_silo_and_one_fold(tmp_path: Path) -> None:
    job_file = load_job(ROOT / "examples/solubility/job.yaml")
    homes: dict[str, set[tuple[str, bool]]] = {}
    total = 0
    for silo in job_file.job.silos:
        path = job_file.folder / silo.data
        data = load_data(path, job_file.job.data, tmp_path / "rejects")
        assert data.dropped == 0
        total += len(data.train) + len(data.test)
        folds = job_file.job.data.folds
        assert folds.kind == "scaffold"
        for smiles in pa.parquet.read_table(path)["smiles"].to_pylist():
            key = scaffold_key(smiles)
            held_out = fraction(folds.salt, key) < folds.test_fraction
            homes.setdefault(key, set()).add((silo.name, held_out))
    assert total == 1282
    assert all(len(home) == 1 for home in homes.values())

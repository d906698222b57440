"""Folds by cluster and by time: the same in every silo, with nothing exchanged."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from pydantic import ValidationError
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from blindsum.platform.data.clusters import _leaders
from blindsum.platform.data.split import cluster_key, fraction
from blindsum.platform.data.table import load_data, load_molecules
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.file import load_job

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/solubility/job.yaml"
BY_TIME = {"kind": "time", "column": "measured", "held_out_from": date(2023, 1, 1)}
BY_CLUSTER = {"kind": "cluster", "salt": "s", "test_fraction": 0.3}


def contract(folds: dict[str, Any], **others: Any) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "ecfp", "smiles": "smiles", "bits": 64},
            "target": {"column": "y", "classes": [0, 1]},
            "folds": folds,
            **others,
        }
    )


def loaded(table: pa.Table, folds: dict[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    path = folder / "table.parquet"
    pyarrow.parquet.write_table(table, path)
    found = load_molecules(path, contract(folds), folder / "rejects")
    assert found
    return found


GOLDEN = [
    ("CO", "CC(=NN)C(C)=NN=C(C)C(C)=NN=C(C)C(C)=NN=C(C)C(C)=NN", "0x1.b5500fd8ffcd0p-3"),
    ("[CH3:1][OH:2]", "CC(=NN)C(C)=NN=C(C)C(C)=NN=C(C)C(C)=NN=C(C)C(C)=NN", "0x1.b5500fd8ffcd0p-3"),
    (
        "c1ccccc1O",
        "Oc1ccc(N=C2CCC(=C(c3ccccc3)c3ccc(Nc4ccc(O)cc4)cc3)CC2)cc1",
        "0x1.6f867b764c02cp-1",
    ),
    ("C[C@H](N)C(=O)O", "NC(CN(O)N=O)C(=O)O", "0x1.df925e5faa98dp-1"),
    ("CC(=O)Oc1ccccc1C(=O)O", "CC(=O)Oc1ccn2nc(C)c(Br)c2c1Br", "0x1.f0af08056811ep-2"),
    (
        "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
        "COCn1c(=O)n(C)c(=O)c2c1nc1c(c(=O)n(C)c(=O)n1COC)[n+]2[O-]",
        "0x1.ee80191493ab5p-3",
    ),
    ("[Na+].[O-]C(=O)c1ccccc1", "O=C(C=Cc1ccccc1[N+](=O)[O-])c1ccccc1", "0x1.496162ca53814p-1"),
    (
        "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
        "CC(C)COC(=O)c1ccc(N=Cc2ccc(C=Nc3ccc(C(=O)OCC(C)C)cc3)cc2)cc1",
        "0x1.28fc69ae24c2fp-2",
    ),
    ("[Xe]", "[Xe]", "0x1.88dc9d8960f99p-1"),
]
"""SMILES, leader, and its fraction with the salt `golden`. Another value moves records between
folds: if a new RDKit changes one, announce it."""


def molecules() -> list[str]:
    job = load_job(EXAMPLE)
    tables = [pyarrow.parquet.read_table(job.folder / silo.data) for silo in job.job.silos]
    return list(dict.fromkeys(one for table in tables for one in table["smiles"].to_pylist()))


def test_a_cluster_s_leader_is_the_most_similar_public_molecule() -> None:
    """Compared with a loop over pairs."""
    leaders, _ = _leaders()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in leaders]
    assert len(leaders) == len(set(leaders)) == 1024
    for smiles in molecules()[:40]:
        one = generator.GetFingerprint(Chem.MolFromSmiles(smiles))
        similar = [DataStructs.TanimotoSimilarity(one, other) for other in prints]
        assert leaders[similar.index(max(similar))] == cluster_key(smiles)
    # Leaders lie apart, and each leads itself.
    for place in (1, 500, 1023):
        assert max(DataStructs.BulkTanimotoSimilarity(prints[place], prints[:place])) <= 0.2
        assert cluster_key(leaders[place]) == leaders[place]


@pytest.mark.parametrize(("smiles", "key", "expected"), GOLDEN)
def test_clusters_are_those_of_every_silo_and_version(smiles: str, key: str, expected: str) -> None:
    assert cluster_key(smiles) == key
    assert fraction("golden", key).hex() == expected


def test_similar_molecules_lie_in_one_fold_whatever_else_the_silo_has(tmp_path: Path) -> None:
    smiles = molecules()
    table = pa.table({"smiles": smiles, "y": [i % 2 for i in range(len(smiles))]})
    train, test = loaded(table, BY_CLUSTER, tmp_path)
    assert len(train) + len(test) == len(smiles) and 0.2 < len(test) / len(smiles) < 0.4
    assert not {cluster_key(one) for one in train} & {cluster_key(one) for one in test}
    # Another silo, with a few of these molecules in another order and spelling.
    few = [Chem.MolToSmiles(Chem.MolFromSmiles(one), doRandom=True) for one in smiles[::7]][::-1]
    part = pa.table({"smiles": few, "y": [i % 2 for i in range(len(few))]})
    held_out = {Chem.CanonSmiles(one) for one in test}
    _, other = loaded(part, BY_CLUSTER, tmp_path)
    assert {Chem.CanonSmiles(one) for one in other} == held_out & set(map(Chem.CanonSmiles, few))
    clusters = {cluster_key(one) for one in smiles}
    assert 100 < len(clusters) < len(smiles) / 2


def test_a_molecule_like_no_leader_is_its_own_cluster() -> None:
    assert (cluster_key("[Xe]"), cluster_key("[U]")) == ("[Xe]", "[U]")
    assert cluster_key("[CH3:1][OH:2]") == cluster_key("CO"), "without atom-map numbers"
    with pytest.raises(DataError, match="that RDKit can read"):
        cluster_key("C1CC")


DATES = [date(2022, 12, 31), date(2023, 1, 1), date(2020, 5, 5), date(2024, 2, 29)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(DATES, pa.date32()),
        pa.array([one.isoformat() for one in DATES]),
        pa.array([f"{one.isoformat()}T08:30:00" for one in DATES]),
        pa.array([datetime(one.year, one.month, one.day, 23) for one in DATES]),
        pa.array(
            [datetime(one.year, one.month, one.day, 23, tzinfo=UTC) for one in DATES],
            pa.timestamp("us", "UTC"),
        ),
    ],
)
def test_records_from_a_date_on_are_held_out(column: pa.Array, tmp_path: Path) -> None:
    smiles = ["CO", "CCO", "CCCO", "CCCCO"]
    table = pa.table({"smiles": smiles, "y": [0, 1, 0, 1], "measured": column})
    train, test = loaded(table, BY_TIME, tmp_path)
    assert train == ["CO", "CCCO"] and test == ["CCO", "CCCCO"]


def test_a_table_is_known_again_from_another_kind_of_file(tmp_path: Path) -> None:
    """The ledger knows a dataset by its fingerprint: text in a CSV is the date in a Parquet."""
    table = pa.table(
        {"smiles": ["CO", "CCO", "CCCO", "CCCCO"], "y": [0, 1, 0, 1], "measured": DATES}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    found = [
        load_data(tmp_path / name, contract(BY_TIME), tmp_path / "rejects")
        for name in ("a.parquet", "a.csv")
    ]
    assert found[0].fingerprint == found[1].fingerprint
    np.testing.assert_array_equal(found[0].test.labels, found[1].test.labels)


def test_a_molecule_on_both_sides_of_the_date_is_told(tmp_path: Path) -> None:
    table = pa.table(
        {"smiles": ["CO", "CO", "CCO", "CCCO"] * 5, "y": [0, 0, 1, 1] * 5, "measured": DATES * 5}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = load_data(tmp_path / "a.parquet", contract(BY_TIME), tmp_path / "rejects")
    assert any("held" in one for one in found.concerns), found.concerns


@pytest.mark.parametrize("odd", ["soon", None, ""])
def test_what_is_no_date_refuses_the_table_and_is_not_told(odd: str | None, tmp_path: Path) -> None:
    texts = [*(one.isoformat() for one in DATES[:3]), odd]
    table = pa.table({"smiles": ["CO", "CCO", "CCCO", "CCCCO"], "y": [0, 1, 0, 1]})
    table = table.append_column("measured", pa.array(texts))
    with pytest.raises(DataError, match="column 'measured' has (text that is not a date|missing)"):
        loaded(table, BY_TIME, tmp_path)
    assert ",measured," in (tmp_path / "rejects").read_text()


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="is not a date: write YYYY-MM-DD"):
        contract({**BY_TIME, "held_out_from": "2023"})
    columns = {"kind": "columns", "columns": {"x": {}}}
    with pytest.raises(ValidationError, match="folds.kind cluster needs features with a smiles"):
        contract(BY_CLUSTER, features=columns)
    assert contract(BY_TIME).model_dump(mode="json")["folds"]["held_out_from"] == "2023-01-01"

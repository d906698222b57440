"""Random folds: a record's fold follows from its features alone, and never moves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from blindsum.platform.data import molecule_work, record_keys
from blindsum.platform.data.features import features_of
from blindsum.platform.data.molecule_work import FoldKeys, MoleculeWork
from blindsum.platform.data.molecules import write_molecule
from blindsum.platform.data.record_keys import record_fractions
from blindsum.platform.data.table import load_data, load_molecules
from blindsum.platform.job.data_section import DataSection


def contract(features: dict[str, Any], fraction: float = 0.3, **others: str) -> DataSection:
    return DataSection.model_validate(
        {
            "features": features,
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": "random", "salt": "s", "test_fraction": fraction},
            **others,
        }
    )


def of_columns(*names: str) -> dict[str, Any]:
    return {"kind": "columns", "columns": {name: {} for name in names}}


def fractions(table: pa.Table, features: dict[str, Any], salt: str = "s") -> list[float]:
    return record_fractions(table, features_of(contract(features).features), salt).tolist()


NUMBERS = st.floats(allow_nan=False, width=32)
RECORDS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20)


@given(records=RECORDS, seed=st.integers(0, 2**32 - 1))
def test_a_records_fold_is_its_own(records: list[tuple[float, float]], seed: int) -> None:
    """It depends on nothing else: not on order, types or chunks. Equal records share it."""
    a, b = (np.array(one) for one in zip(*records, strict=True))
    plain = fractions(pa.table({"a": a, "b": b, "y": [0] * len(a)}), of_columns("a", "b"))
    order = np.random.default_rng(seed).permutation(len(a))
    narrow = pa.table({"y": [1] * len(a), "b": b[order].astype(np.float32), "a": a[order]})
    chunked = pa.concat_tables([narrow.slice(0, 1), narrow.slice(1)])
    assert fractions(chunked, of_columns("b", "a")) == [plain[i] for i in order]
    by_record: dict[Any, float] = {}
    for record, one in zip(zip(a + 0.0, b + 0.0, strict=True), plain, strict=True):
        assert by_record.setdefault(record, one) == one
    assert len(set(plain)) == len(by_record)


def test_types_of_equal_values_do_not_matter() -> None:
    as_int = pa.table({"a": pa.array([0, 1, 7], pa.int8())})
    as_float = pa.table({"a": [-0.0, 1.0, 7.0]})
    assert fractions(as_int, of_columns("a")) == fractions(as_float, of_columns("a"))
    as_bool = pa.table({"a": [False, True]})
    assert fractions(as_bool, of_columns("a")) == fractions(as_float, of_columns("a"))[:2]


def test_a_value_stays_in_its_column_and_the_salt_counts() -> None:
    one, other = pa.table({"a": [1.0], "b": [2.0]}), pa.table({"a": [2.0], "b": [1.0]})
    both = of_columns("a", "b")
    assert fractions(one, both) != fractions(other, both)
    assert fractions(one, both, "s") != fractions(one, both, "t")


def test_two_spellings_of_a_molecule_are_one_record() -> None:
    told = {"kind": "ecfp", "bits": 64}
    found = fractions(pa.table({"smiles": ["OCC", "CCO", "C[CH2:1][OH:2]", "CCN"]}), told)
    assert found[0] == found[1] == found[2] != found[3]


def test_known_spellings_give_the_folds_of_unknown_ones() -> None:
    texts = ["OCC", "C[CH2:1][OH:2]", "CCN", "C[C@H](N)O |&1:1|", "c1ccccc1"]
    table = pa.table({"smiles": texts})
    spellings = MoleculeWork((FoldKeys("spelling"),)).compute()(texts)["key"].to_pylist()
    kind = features_of(contract({"kind": "ecfp"}).features)
    known = record_fractions(table, kind, "s", spellings)
    assert known.tolist() == record_fractions(table, kind, "s").tolist()


def test_a_molecule_that_cannot_be_written_has_no_fold_and_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(molecule: Chem.Mol) -> str:
        if molecule.GetNumAtoms() == 1:
            raise RuntimeError("RDKit says what it is")
        return write_molecule(molecule)

    monkeypatch.setattr(molecule_work, "write_molecule", written)
    smiles = ["C", *("C" * n + "O" for n in range(1, 40))]
    path, rejects = tmp_path / "t.parquet", tmp_path / "rejected_rows.csv"
    pyarrow.parquet.write_table(pa.table({"smiles": smiles, "y": [0, 1] * 20}), path)
    dropping = contract({"kind": "ecfp"}, unparsable="drop")
    assert load_data(path, dropping, rejects).dropped == 1
    assert "RDKit cannot write it" in rejects.read_text()


def test_records_that_are_dropped_for_their_labels_move_no_other_molecule(tmp_path: Path) -> None:
    smiles = ["C" * n + "O" for n in range(1, 61)]
    dropping = contract({"kind": "ecfp"}, unlabelled="drop")
    held_out = []
    for name, labels in (("all", [0, 1] * 30), ("some", [None, 0, 1] * 20)):
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pa.table({"smiles": smiles, "y": labels}), path)
        found = load_molecules(path, dropping, tmp_path / "rejected_rows.csv")
        assert found is not None
        held_out.append(found[1])
    unlabelled = set(smiles[::3])
    assert held_out[1] == [one for one in held_out[0] if one not in unlabelled] != []


def test_fingerprints_are_hashed_by_their_positions() -> None:
    told = {"kind": "fingerprint", "bits": 64}
    small = pa.array([[1, 2], [1, 2], [], [12]], pa.list_(pa.int16()))
    found = fractions(pa.table({"fingerprint": small}), told)
    wide = fractions(pa.table({"fingerprint": small.cast(pa.list_(pa.int64()))}), told)
    assert found == wide and found[0] == found[1] and len(set(found)) == 3


def test_blocks_of_records_join(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    table = pa.table({name: random.normal(size=101) for name in "abc"})
    whole = fractions(table, of_columns(*"abc"))
    monkeypatch.setattr(record_keys, "_BLOCK_BYTES", 24 * 10)
    assert fractions(table, of_columns(*"abc")) == whole


def test_a_table_is_split_whatever_its_file_and_without_an_identifier(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    table = pa.table(
        {"age": random.normal(50, 10, 400).round(1), "bp": random.integers(90, 180, 400)}
    )
    table = table.append_column("y", pa.array(random.integers(0, 2, 400)))
    table = pa.concat_tables([table, table.set_column(2, "y", pa.array([0] * 400))])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table.select(["y", "bp", "age"]), tmp_path / "a.csv")
    scaled = {"age": {"center": 50, "scale": 40}, "bp": {"center": 135, "scale": 45}}
    section = contract({"kind": "columns", "columns": scaled})
    one, other = (
        load_data(tmp_path / f"a.{kind}", section, tmp_path / "r") for kind in ("parquet", "csv")
    )
    np.testing.assert_array_equal(one.test.features, other.test.features)
    assert 0.2 < len(one.test) / 800 < 0.4
    train, test = ({tuple(row) for row in fold.features} for fold in (one.train, one.test))
    assert not train & test, "a repeated measurement with another label lies in the same fold"


def test_twenty_thousand_columns_are_hashed_in_seconds() -> None:
    names = [f"x{i}" for i in range(20_000)]
    random = np.random.default_rng(3)
    table = pa.table({name: random.normal(size=240) for name in names})
    features = features_of(contract(of_columns(*names)).features)
    started = time.process_time()
    found = record_fractions(table, features, "s")
    assert len(set(found)) == 240
    assert time.process_time() - started < 5

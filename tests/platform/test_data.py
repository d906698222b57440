"""Silo data: tables are checked against the job, and errors quote no values."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from blindsum.platform.data.features import features_of
from blindsum.platform.data.reading import read_table
from blindsum.platform.data.records import dense
from blindsum.platform.data.table import SiloData, load_data, load_molecules
from blindsum.platform.data.task_labels import task_labels
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Task
from tests.conftest import MakeJob

CANARY = "C1CANARY7"


@pytest.fixture
def contract(make_job: MakeJob) -> DataSection:
    return make_job().job.data


def load(path: Path, contract: DataSection, tmp_path: Path) -> SiloData:
    return load_data(path, contract, tmp_path / "state" / "rejected_rows.csv")


def write(table: pa.Table, path: Path) -> Path:
    pyarrow.parquet.write_table(table, path)
    return path


def test_a_good_table_gives_two_folds(tables, contract, tmp_path, breast_cancer) -> None:  # type: ignore[no-untyped-def]
    data = load(tables["alder"], contract, tmp_path)
    assert len(data.train) + len(data.test) == 150 and len(data.test) > 15
    assert data.train.features.dtype == np.float32 and data.train.features.shape[1] == 4
    assert "private" in repr(data) and "private" in repr(data.train)
    first = (breast_cancer["mean_radius"][0].as_py() - 14.0) / 3.5
    assert (
        np.isclose(data.train.features[:, 0], first, atol=1e-6).any()
        or np.isclose(data.test.features[:, 0], first, atol=1e-6).any()
    )


def test_csv_and_parquet_give_the_same_data(tables, contract, tmp_path) -> None:  # type: ignore[no-untyped-def]
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(tables["alder"]), tmp_path / "a.csv")
    a, b = load(tables["alder"], contract, tmp_path), load(tmp_path / "a.csv", contract, tmp_path)
    np.testing.assert_array_equal(a.train.features, b.train.features)
    np.testing.assert_array_equal(a.test.labels, b.test.labels)


def test_the_fingerprint_depends_on_the_records_but_not_their_order(
    tables,
    contract,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    table = pyarrow.parquet.read_table(tables["alder"])
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    extra = table.append_column("unused", pa.array(range(len(table))))
    known = load(tables["alder"], contract, tmp_path).fingerprint
    for same in (shuffled, extra):
        assert load(write(same, tmp_path / "x"), contract, tmp_path).fingerprint == known
    fewer = load(write(table.slice(1), tmp_path / "x"), contract, tmp_path)
    assert fewer.fingerprint != known


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns("mean_radius"), "column 'mean_radius' is missing. Rename"),
        (
            lambda t: t.append_column("mean_radius", t["mean_texture"]),
            "'mean_radius' is there 2 times",
        ),
        (
            lambda t: t.set_column(0, "mean_radius", pa.array([CANARY] * len(t))),
            "column 'mean_radius' is string, expected a number",
        ),
        (
            lambda t: t.set_column(0, "mean_radius", pa.array([None] + [1.0] * (len(t) - 1))),
            "column 'mean_radius' has missing, NaN or infinite values",
        ),
        (lambda t: t.set_column(0, "mean_radius", pa.array([np.nan] * len(t))), "NaN or infinite"),
        (lambda t: t.set_column(0, "mean_radius", pa.array([np.inf] * len(t))), "NaN or infinite"),
        (
            lambda t: t.set_column(5, "diagnosis", pa.array([CANARY] * len(t))),
            "has values that are not in data.target.classes (malignant, benign)",
        ),
        (
            lambda t: t.set_column(5, "diagnosis", pa.array([1] * len(t))),
            "column 'diagnosis' is int64, expected text",
        ),
        (
            lambda t: t.set_column(4, "patient", pa.array([0.5] * len(t))),
            "column 'patient' is double, expected an integer (data.folds.key)",
        ),
        (lambda t: t.slice(0, 0), "has no records"),
        (
            lambda t: t.set_column(4, "patient", pa.array([7] * len(t))),
            "fold of alder.parquet is empty",
        ),
    ],
)
def test_tables_that_do_not_meet_the_job_are_refused(
    tables,
    contract,
    tmp_path,
    change,
    said,  # type: ignore[no-untyped-def]
) -> None:
    write(change(pyarrow.parquet.read_table(tables["alder"])), tables["alder"])
    with pytest.raises(DataError) as caught:
        load(tables["alder"], contract, tmp_path)
    message = str(caught.value).replace(str(tmp_path), "")
    assert said in message
    assert CANARY not in message and "150" not in message  # a path may hold either


def test_files_that_cannot_be_read(tables, contract, tmp_path) -> None:  # type: ignore[no-untyped-def]
    content = tables["alder"].read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.parquet").write_text(CANARY)
    (tmp_path / "bad.csv").write_text(f"a,b\n1\n{CANARY},2,3\n")
    for name in ("cut.parquet", "text.parquet", "bad.csv"):
        with pytest.raises(DataError, match="cannot be read as") as caught:
            load(tmp_path / name, contract, tmp_path)
        assert CANARY not in str(caught.value)
    os.mkfifo(tmp_path / "pipe")  # reading it would block for ever
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path / "pipe", contract, tmp_path)
    with pytest.raises(DataError, match="there is no data file"):
        load(tmp_path / "none.parquet", contract, tmp_path)


def test_a_csv_without_a_header_does_not_have_its_first_record_quoted(
    contract: DataSection, tmp_path: Path
) -> None:
    (tmp_path / "bare.csv").write_text(f"{CANARY},1\nCCO,2\n")
    with pytest.raises(DataError, match="first line of a CSV must hold the names") as caught:
        load(tmp_path / "bare.csv", contract, tmp_path)
    assert CANARY not in str(caught.value)


def molecules(contract: DataSection, unparsable: str) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "ecfp", "bits": 64},
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": "hash", "column": "smiles", "salt": "s", "test_fraction": 0.3},
            "unparsable": unparsable,
        }
    )


def test_unreadable_molecules_are_refused_or_counted_and_never_quoted(
    contract,
    tmp_path,
    capfd,  # type: ignore[no-untyped-def]
) -> None:
    smiles = ["C" * (i + 1) for i in range(20)] + [CANARY, "", "C" * 5000]
    path = write(pa.table({"smiles": smiles, "y": [i % 2 for i in range(23)]}), tmp_path / "m")
    with pytest.raises(DataError, match="molecules that RDKit cannot read; the rows") as caught:
        load(path, molecules(contract, "refuse"), tmp_path)
    rejects = tmp_path / "state" / "rejected_rows.csv"
    listed = list(csv.DictReader(rejects.open()))
    assert [row["row"] for row in listed] == ["21", "22", "23"]
    assert {row["column"] for row in listed} == {"smiles"} and listed[0]["value"] == CANARY
    assert [row["reason"] for row in listed] == [
        "RDKit cannot read it",
        "it has no atoms",
        "it is longer than 1,000 characters",
    ]
    assert rejects.stat().st_mode & 0o777 == 0o600
    data = load(path, molecules(contract, "drop"), tmp_path)
    assert data.dropped == 3 and len(data.train) + len(data.test) == 20
    printed = "".join(capfd.readouterr())
    assert CANARY not in str(caught.value) + printed


def test_molecules_have_the_order_of_the_folds(make_job: MakeJob, tmp_path: Path) -> None:
    """Unreadable ones are dropped and scaffolds kept together; names must still match features."""
    told = "data.features={kind: ecfp, bits: 256}", "data.unparsable=drop"
    contract = make_job(
        *told,
        "data.folds={kind: scaffold, salt: s1, test_fraction: 0.5}",
        "data.target={column: y, classes: [0, 1]}",
    ).job.data
    rings = ["c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCOC1", "c1ccoc1", "C1CC1"]
    smiles = [f"{'C' * n}{ring}" for ring in rings for n in range(1, 5)]
    smiles[5:5] = ["not a molecule"]
    path = write(pa.table({"smiles": smiles, "y": [0] * len(smiles)}), tmp_path / "m.parquet")
    data = load_data(path, contract, tmp_path / "rejected")
    found = load_molecules(path, contract, tmp_path / "rejected")
    assert found and data.dropped == 1
    for fold, names in zip((data.train, data.test), found, strict=True):
        assert len(names) > 3
        of_names = features_of(contract.features).compute(pa.table({"smiles": names}))
        np.testing.assert_array_equal(dense(of_names.features), fold.features)
    assert load_molecules(path, make_job().job.data, tmp_path / "rejected") is None


def test_a_header_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """This once raised a UnicodeDecodeError."""
    path = tmp_path / "latin.csv"
    path.write_bytes("durée,patient\n1.0,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as CSV") as caught:
        read_table(path)
    assert "UTF-8" in str(caught.value)


def test_the_error_about_a_label_beyond_2_to_53_names_the_column_only(tmp_path: Path) -> None:
    table = pa.table({"hit": pa.array([0, 2**60 + 1])})
    with pytest.raises(DataError, match="column 'hit' has integers beyond 2.53") as caught:
        task_labels(table, {"hit": Task()}, tmp_path / "t.parquet")
    assert str(2**60 + 1) not in str(caught.value)

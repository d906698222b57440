"""What a table has instead of what the job wants is written at the silo, and does not leave it."""

from __future__ import annotations

import itertools
import pickle
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data.at_silo import TABLE_NOTES, TABLE_PROBLEM
from blindsum.platform.data.files.csv_findings import csv_findings
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Task


def contract(**changed: Any) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "columns", "columns": {"age": {"center": 50.0}, "bp": {}}},
            "target": {"column": "diagnosis", "classes": ["healthy", "ill"]},
            "folds": {"kind": "hash", "column": "patient_id", "salt": "s", "test_fraction": 0.5},
            **changed,
        }
    )


def load(path: Path, **changed: Any) -> SiloData:
    return load_data(path, contract(**changed), path.parent / "state" / "rejected_rows.csv")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refused(path: Path, *private: str, **changed: Any) -> tuple[str, str]:
    """Return what leaves the silo, and what stays."""
    with pytest.raises(DataError) as caught:
        load(path, **changed)
    place = path.parent / "state" / TABLE_PROBLEM
    assert place.stat().st_mode & 0o777 == 0o600
    stays = place.read_text()
    assert all(text in caught.value.at_silo for text in private), "for a process of the owner's"
    crossed = pickle.dumps(caught.value)
    assert not any(text in str(caught.value) or text.encode() in crossed for text in private)
    assert pickle.loads(crossed).at_silo == ""
    assert all(text in stays for text in private), stays
    assert str(place) in str(caught.value)
    return str(caught.value), stays


def rows(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.normal(50, 10, n).round(1),
            "bp": rng.integers(90, 180, n),
            "diagnosis": rng.choice(["ill", "healthy"], n),
            "patient_id": [f"p{i}" for i in range(n)],
        }
    )


@pytest.mark.parametrize("name", ["Age", " age", "AGE ", "a_ge"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_column_that_is_probably_meant_is_named_at_the_silo_only(
    name: str, kind: str, tmp_path: Path
) -> None:
    table, path = rows().rename(columns={"age": name}), tmp_path / f"t.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    leaves, _ = refused(path, f"Instead of 'age' the table has {name!r}")
    assert "column 'age' is missing" in leaves


def test_a_wrong_delimiter_decimal_and_encoding_are_recognised_at_the_silo(tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "s.csv", index=False, sep=";")
    leaves, _ = refused(tmp_path / "s.csv", 'data.csv.delimiter: ";"', "semicolon")
    assert "'age', 'bp', 'patient_id' and 'diagnosis' are missing" in leaves
    rows().to_csv(tmp_path / "t.csv", index=False, sep="\t")
    refused(tmp_path / "t.csv", 'data.csv.delimiter: "\\t"')
    rows().to_csv(tmp_path / "d.csv", index=False, sep=";", decimal=",")
    first = str(rows()["age"][0]).replace(".", ",")
    refused(tmp_path / "d.csv", 'data.csv.delimiter: ";"', 'data.csv.decimal: ","', first)
    assert load(tmp_path / "d.csv", csv={"decimal": ","}).fingerprint == load_of(rows(), tmp_path)
    rows().assign(diagnosis="né").to_csv(tmp_path / "l.csv", index=False, encoding="latin-1")
    leaves, _ = refused(tmp_path / "l.csv", "data.csv.encoding: cp1252", "né")
    assert "UTF-8" in leaves
    rows().to_csv(tmp_path / "u.csv", index=False, encoding="utf-16")
    refused(tmp_path / "u.csv", "data.csv.encoding: utf-16")


def test_a_cell_of_very_many_digits_takes_no_longer_than_its_length(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "age,bp\n" + "1" * 100_000 + "x,2\n")
    started = time.perf_counter()
    assert "nothing looks odd" in csv_findings(path, None)
    assert time.perf_counter() - started < 5, "not minutes"


def load_of(table: pd.DataFrame, folder: Path) -> str:
    table.to_parquet(folder / "known.parquet")
    return load(folder / "known.parquet").fingerprint


def test_ragged_rows_and_marks_between_thousands_are_found_by_row_at_the_silo(
    tmp_path: Path,
) -> None:
    lines = rows().to_csv(index=False).splitlines()
    lines[17] += ",superfluous"
    lines[20] = "3.5"
    leaves, _ = refused(written(tmp_path / "r.csv", "\n".join(lines)), "17 (5), 20 (1)")
    leaves = leaves.replace(str(tmp_path), "")  # pytest numbers its folders
    assert "superfluous" not in leaves and "17" not in leaves
    table = rows().assign(bp=lambda t: t["bp"].astype(str))
    table.loc[4, "bp"] = "1,234"
    table.to_csv(tmp_path / "k.csv", index=False)
    leaves, _ = refused(tmp_path / "k.csv", "row 5 has '1,234'", "marks between thousands")
    assert "column 'bp' is string, expected a number" in leaves
    table.to_parquet(tmp_path / "k.parquet")
    refused(tmp_path / "k.parquet", "row 5 has '1,234'")
    table.loc[4, "bp"] = "1.234,5"
    table.to_csv(tmp_path / "e.csv", index=False, sep=";", decimal=",")
    said = "marks between thousands, for example '1.234,5' in row 5"
    refused(tmp_path / "e.csv", said, csv={"decimal": ","})


def test_names_of_private_tasks_that_are_nearly_there_stay_at_the_silo(tmp_path: Path) -> None:
    rows().assign(Secret=1).to_parquet(tmp_path / "t.parquet")
    changed = contract(
        features={"kind": "columns", "columns": {"age": {}}},
        target=None,
        tasks={"bp": {"kind": "regression", "scale": 100.0}},
    )
    with pytest.raises(DataError) as caught:
        load_data(tmp_path / "t.parquet", changed, tmp_path / "state" / "r", {"secret": Task()})
    assert "ecret" not in repr(pickle.loads(pickle.dumps(caught.value))) + str(caught.value)
    told = (tmp_path / "state" / "private_tasks_error.txt").read_text()
    assert "Instead of 'secret' the table has 'Secret'" in told
    assert not (tmp_path / "state" / TABLE_PROBLEM).exists()
    (tmp_path / "full").touch()  # where nothing can be written
    with pytest.raises(DataError, match="cannot be written") as caught:
        load_data(tmp_path / "t.parquet", changed, tmp_path / "full" / "r", {"secret": Task()})
    assert "ecret" not in repr(pickle.loads(pickle.dumps(caught.value))) + str(caught.value)


def test_text_that_is_not_utf_8_is_shown_with_its_row_at_the_silo(tmp_path: Path) -> None:
    names = pa.array([f"Zo\xe9{i}".encode("latin-1") for i in range(40)])
    table = pa.Table.from_pandas(rows()).drop_columns(["patient_id"])
    pyarrow.parquet.write_table(table.append_column("patient_id", names), tmp_path / "b.parquet")
    leaves, _ = refused(tmp_path / "b.parquet", "Row 1 ", r"Zo\xe90")
    assert "column 'patient_id' is text stored as bytes that are not UTF-8" in leaves


def test_empty_rows_at_the_end_are_skipped_and_noted(tmp_path: Path) -> None:
    text = rows().to_csv(index=False) + ",,,\n" * 3
    assert load(written(tmp_path / "e.csv", text)).fingerprint == load_of(rows(), tmp_path)
    load(tmp_path / "e.csv")
    notes = tmp_path / "state" / TABLE_NOTES
    assert "rows 41 to 43 at the end" in notes.read_text()
    assert notes.stat().st_mode & 0o777 == 0o600
    load(tmp_path / "known.parquet")
    assert not notes.exists(), "it is about the table that was read last"


# -- the same table in every kind of file -------------------------------------------------

CELLS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"'),
    min_size=1,
    max_size=6,
)
_number = itertools.count()


@settings(max_examples=25)
@given(
    numbers=st.lists(CELLS, min_size=24, max_size=24),
    whole=st.lists(st.integers(-(10**6), 10**6), min_size=24, max_size=24),
    keys=st.lists(NAMES, min_size=24, max_size=24, unique=True),
)
def test_the_same_table_has_one_fingerprint_and_features_in_every_kind(
    numbers: list[float], whole: list[int], keys: list[str], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"kinds-{next(_number)}"
    folder.mkdir()
    labels = ["ill", "healthy"] * 12
    table = pd.DataFrame({"age": numbers, "bp": whole, "diagnosis": labels, "patient_id": keys})
    half = len(table) // 2
    (folder / "many").mkdir()
    table[:half].to_parquet(folder / "many" / "0.parquet")
    table[half:].astype({"diagnosis": "category"}).to_parquet(folder / "many" / "1.parquet")
    table.to_parquet(folder / "a.parquet")
    decimals = [Decimal(str(x)) for x in numbers]
    table.assign(age=pd.Series(decimals, dtype=pd.ArrowDtype(pa.decimal128(20, 3)))).astype(
        {"patient_id": "category"}
    ).to_parquet(folder / "b.parquet")
    table.to_feather(folder / "a.feather")
    table.to_csv(folder / "a.csv", index=False)
    table.to_csv(folder / "a.tsv.bz2", index=False, sep="\t", encoding="utf-8")
    table.to_csv(folder / "s.csv", index=False, sep=";", decimal=",", encoding="utf-16")
    split = {"kind": "hash", "column": "patient_id", "salt": "s", "test_fraction": 0.5}
    told: dict[str, Any] = {"folds": split}
    found = {}
    for path in sorted(folder.iterdir()):
        csv = {"decimal": ",", "encoding": "utf-16"} if path.name == "s.csv" else None
        try:
            found[path.name] = load(path, csv=csv, **told)
        except DataError as error:
            assert "fold" in str(error), error  # all keys on one side
            return
    first = found["a.parquet"]
    for name, data in found.items():
        assert data.fingerprint == first.fingerprint, name
        for fold, other in ((data.train, first.train), (data.test, first.test)):
            np.testing.assert_array_equal(fold.features, other.features)
            np.testing.assert_array_equal(fold.labels, other.labels)

"""Rows that break a rule: all of them listed at the silo, and only columns of the job leave it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from blindsum.platform.data.rejected_rows import (
    MOST_NAMES,
    MOST_ROWS,
    Rejected,
    RejectedRows,
    refuse,
    said_of,
)
from blindsum.platform.data.table import SiloData, load_data, table_fingerprints
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Task

CANARY = "C1CANARY7"
ROWS = 60


def contract(**changed: Any) -> DataSection:
    content = {
        "features": {"kind": "columns", "columns": {"age": {}, "bp": {}}},
        "tasks": {"hit": {}, "size": {"kind": "regression", "qualifier": "side"}},
        "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
    }
    return DataSection.model_validate({**content, **changed})


def table(**changed: dict[int, Any]) -> pa.Table:
    """Return a good table, but for the cells that are named by column and row."""
    random = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {
        "age": random.normal(size=ROWS).tolist(),
        "bp": random.normal(size=ROWS).tolist(),
        "hit": [0, 1] * (ROWS // 2),
        "size": random.normal(size=ROWS).tolist(),
        "side": ["="] * ROWS,
        "diagnosis": ["ill", "healthy"] * (ROWS // 2),
    }
    for name, cells in changed.items():
        for row, value in cells.items():
            columns[name][row] = value
    return pa.table(columns)


class Silo:
    """A folder with one table, and the list of what was rejected in it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.list = folder / "silo.parquet", folder / "state" / "rejected_rows.csv"

    def load(self, data: pa.Table, section: DataSection, own: Any = None) -> SiloData:
        pyarrow.parquet.write_table(data, self.path)
        return load_data(self.path, section, self.list, own)

    def refusal(self, data: pa.Table, section: DataSection, own: Any = None) -> str:
        with pytest.raises(DataError) as caught:
            self.load(data, section, own)
        return str(caught.value)

    @property
    def listed(self) -> list[tuple[int, str, str]]:
        with open(self.list, encoding="utf-8") as file:
            return [(int(r["row"]), r["column"], r["value"]) for r in csv.DictReader(file)]


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    return Silo(tmp_path)


def test_all_faults_are_named_at_once_and_only_columns_leave(silo: Silo) -> None:
    wrong = table(
        age={4: None},
        bp={5: float("inf"), 4: float("nan")},
        hit={7: 41},
        size={8: 5e17},
        side={9: CANARY},
    )
    said = silo.refusal(wrong, contract())
    for part in (
        "columns 'age' and 'bp' have missing, NaN or infinite values",
        "column 'hit' has values other than 0 and 1",
        "column 'size' has values that are infinite or more than 100 times",
        "column 'side' has qualifiers other than <, = and >",
        f"the rows are listed in {silo.list} at the silo",
    ):
        assert part in said
    values = (CANARY, "41", "5e+17", *(str(row + 1) for row in (4, 5, 7, 8)))
    assert not any(value in said.replace(str(silo.list), "") for value in values)
    assert [(row, column) for row, column, _ in silo.listed] == [
        (5, "age"),
        (5, "bp"),
        (6, "bp"),
        (8, "hit"),
        (9, "size"),
        (10, "side"),
    ]
    assert silo.listed[-1][2] == CANARY and silo.listed[3][2] == "41"
    assert silo.list.stat().st_mode & 0o777 == 0o600
    assert silo.list.parent.stat().st_mode & 0o777 == 0o700


def test_the_list_of_an_earlier_table_goes_with_its_faults(silo: Silo) -> None:
    silo.refusal(table(hit={7: 41}), contract())
    silo.list.chmod(0o644)
    silo.refusal(table(hit={8: 41}), contract())
    assert silo.list.stat().st_mode & 0o777 == 0o600 and silo.listed[0][0] == 9
    assert silo.load(table(), contract()).dropped == 0 and not silo.list.exists()


def test_records_without_any_label_are_refused_or_dropped_and_counted(silo: Silo) -> None:
    wrong = table(hit={1: None, 2: None, 3: None}, size={1: None, 2: None})
    said = silo.refusal(wrong, contract())
    assert "the table has records without a label of any task" in said
    assert "data.unlabelled: drop" in said
    assert silo.listed == [(2, "", ""), (3, "", "")]
    data = silo.load(wrong, contract(unlabelled="drop"))
    assert data.dropped == 2 and len(data.train) + len(data.test) == ROWS - 2
    assert silo.listed == [(2, "", ""), (3, "", "")]
    kept = table().take([i for i in range(ROWS) if i not in (1, 2)])
    same = silo.load(kept, contract())
    assert same.train.features.tolist() == data.train.features.tolist()


def test_a_target_without_a_label_is_refused_or_dropped_and_counted(silo: Silo) -> None:
    target = {"column": "diagnosis", "classes": ["healthy", "ill"], "missing": "?"}
    wrong = table(diagnosis={1: None, 2: "?", 3: ""})
    said = silo.refusal(wrong, contract(tasks=None, target=target))
    assert "column 'diagnosis' has missing labels" in said
    data = silo.load(wrong, contract(tasks=None, target=target, unlabelled="drop"))
    assert data.dropped == 3 and [row for row, _, _ in silo.listed] == [2, 3, 4]
    wrong = table(diagnosis={1: None, 7: CANARY})
    said = silo.refusal(wrong, contract(tasks=None, target=target, unlabelled="drop"))
    assert "values that are not in data.target.classes (healthy, ill)" in said
    assert "missing labels" not in said and CANARY not in said
    assert silo.listed == [(2, "diagnosis", ""), (8, "diagnosis", CANARY)]


def test_labels_of_unknown_qualifiers_are_refused_or_left_out_and_counted(silo: Silo) -> None:
    wrong = table(side={1: "~", 2: "approx", 3: "~", 4: " < "}, size={3: None}, hit={2: None})
    assert "data.qualifiers: drop" in silo.refusal(wrong, contract())
    assert [row for row, _, _ in silo.listed] == [2, 3], "a qualifier of no number does not matter"
    said = silo.refusal(wrong, contract(qualifiers="drop"))
    assert "records without a label" in said, "the third record had no other label"
    both = contract(qualifiers="drop", unlabelled="drop")
    data = silo.load(wrong, both)
    assert data.dropped == 2, "one label, and one record that counts once"
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert len(labels) == ROWS - 1 and np.isnan(labels[:, 0, 1]).sum() == 2
    assert (labels[:, 1, 1] == -1).sum() == 1


def test_private_tasks_are_listed_at_the_silo_and_neither_named_nor_counted(silo: Silo) -> None:
    own = {"diagnosis": Task(positive="ill", negative="healthy")}
    said = silo.refusal(table(diagnosis={3: CANARY}), contract(), own)
    assert "private tasks" in said and "diagnosis" not in said and CANARY not in said
    assert silo.listed == [(4, "diagnosis", CANARY)]
    more = table(side={1: "~"}).append_column("own", pa.array([1.0] * ROWS))
    more = more.append_column("how", pa.array(["~"] * ROWS))
    own = {"own": Task(kind="regression", qualifier="how")}
    data = silo.load(more, contract(qualifiers="drop"), own)
    assert data.dropped == 1, "labels of private tasks are left out without being counted"


def test_missing_columns_and_wrong_types_are_named_at_once(silo: Silo) -> None:
    wrong = table().drop_columns(["age", "hit"])
    wrong = wrong.set_column(wrong.column_names.index("bp"), "bp", pa.array([CANARY] * ROWS))
    said = silo.refusal(wrong, contract())
    assert "columns 'age' and 'hit' are missing; column 'bp' is string, expected a number" in said
    assert CANARY not in said


def test_many_columns_are_named_without_their_number(silo: Silo) -> None:
    names = [f"x{i}" for i in range(400)]
    wide = pa.table({name: [None, 1.0, 2.0] * 20 for name in names})
    wide = wide.append_column("hit", pa.array([0, 1] * 30))
    features = {"kind": "columns", "columns": {name: {} for name in names}}
    said = silo.refusal(wide, contract(features=features, tasks={"hit": {}}))
    assert f"'x{MOST_NAMES - 1}' and others have missing" in said
    assert f"'x{MOST_NAMES}'" not in said and "380" not in said and "400" not in said
    assert len(silo.listed) == 400 * 20


def test_approving_names_all_gaps_at_once(silo: Silo) -> None:
    pyarrow.parquet.write_table(table(age={1: None}, bp={2: None}), silo.path)
    with pytest.raises(DataError, match="columns 'age' and 'bp' have missing"):
        table_fingerprints(silo.path, contract(), silo.list)
    assert [(row, column) for row, column, _ in silo.listed] == [(2, "age"), (3, "bp")]


def test_text_that_is_not_utf_8_is_listed_without_its_value(silo: Silo) -> None:
    wrong = pa.array([b"ill"] * 59 + [b"\xff\xfe"], pa.binary()).view(pa.string())
    data = table().set_column(5, "diagnosis", wrong)
    target = {"column": "diagnosis", "classes": ["healthy", "ill"]}
    with pytest.raises(DataError) as caught:
        silo.load(data, contract(tasks=None, target=target))
    assert "UTF-8" in str(caught.value) or "at the silo" in str(caught.value)


def test_a_list_is_bounded_and_says_so(tmp_path: Path) -> None:
    many = pa.table({"x": pa.nulls(MOST_ROWS + 5, pa.float64())})
    rejected = Rejected(rows=np.ones(MOST_ROWS + 5, bool), column="x", fault="gaps", mend="Mend.")
    found = RejectedRows()
    for part in (slice(0, 10), slice(10, None)):
        found.begin(many.take(np.arange(len(many))[part]))
        found.add([replace(rejected, rows=rejected.rows[part])])
    with pytest.raises(DataError, match=r"column 'x' has gaps; the rows are listed in"):
        found.finish("silo.parquet", tmp_path / "list.csv")
    lines = (tmp_path / "list.csv").read_text().splitlines()
    assert len(lines) == MOST_ROWS + 2 and lines[-1].startswith("and more")
    assert "private" in repr(rejected)


def test_a_list_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    rejected = Rejected(rows=np.ones(1, bool), column="x", fault="gaps", mend="Mend.")
    found = RejectedRows()
    found.begin(pa.table({"x": [1]}))
    found.add([rejected])
    with pytest.raises(DataError, match="cannot be written"):
        found.finish("silo.parquet", tmp_path / "state" / "list.csv")


def test_words_for_columns() -> None:
    assert said_of(["a"], ("is", "are"), "missing") == "column 'a' is missing"
    assert said_of("abc", ("is", "are"), "wrong") == "columns 'a', 'b' and 'c' are wrong"
    assert said_of(["", "a"], ("has", "have"), "gaps") == "the table has gaps"
    refuse([], "silo.parquet", Path("list.csv"))

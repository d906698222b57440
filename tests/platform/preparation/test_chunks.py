"""A preparation in parts gives what one in a single part gives; quorums by group and by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blindsum.platform.data.preparation import chunks, label_columns
from blindsum.platform.data.preparation.assemble import labels_of
from blindsum.platform.data.preparation.own_files import OwnFiles
from blindsum.platform.data.preparation.quorums import with_divided_weights
from blindsum.platform.data.preparation.recipe import Activities, AssayTask, Quorum, Recipe
from blindsum.platform.data.preparation.record_parts import PreparedRecords
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.preparation.tables import Tables, read_activities

TASKS = {
    "active": AssayTask(threshold=6.0),
    "screen": AssayTask(threshold=3.0, direction="either", group="AUX"),
    "number": AssayTask(kind="regression"),
}
OF_ASSAY = {"a": ["active", "number"], "b": ["screen"]}
RECIPE = Recipe.model_validate({"features": {"kind": "ecfp", "bits": 64}, "folds": {"count": 3}})
MEASURED = st.tuples(
    st.sampled_from(["c0", "c1", "c2", "c3", "c4", "unknown"]),
    st.sampled_from(["a", "b", "of no task"]),
    st.sampled_from([-7.0, 0.0, 1.0, 5.0, 6.0, 7.0, float("nan")]),
    st.sampled_from([-1.0, 0.0, 1.0, float("nan")]),
)


def tables_of(rows: list[tuple[str, str, float, float]]) -> tuple[Tables, pd.DataFrame]:
    """Return tables of five compounds, of which the last two have one structure."""
    measured = pd.DataFrame(rows, columns=["compound", "assay", "value", "side"])
    measured = measured.assign(inclusive=False, unit="", row=range(1, len(rows) + 1))
    names = [f"c{i}" for i in range(5)]
    structures = ["C", "CC", "CCC", "CCCC", "CCCC"]
    compounds = pd.DataFrame({"compound": names, "structure": structures, "name": names})
    return Tables(compounds, measured, TASKS, OF_ASSAY), compounds


def prepared(rows: list[tuple[str, str, float, float]]) -> tuple[pa.Table, Report]:
    tables, compounds = tables_of(rows)
    report = Report()
    least = Quorum(classes=1, values=1, uncensored=1)
    labels = labels_of(tables, compounds, {"active"}, least, report)
    texts = ["C", "CC", "CCC", "CCCC"]
    records = PreparedRecords(
        labels=labels,
        names=compounds,
        features=pa.table(
            [texts, pa.array([[1], [2, 5], [], [63]], pa.list_(pa.int32()))],
            ["text", "fingerprint"],
        ),
        standard=pa.table([texts, texts], ["structure", "scaffold"]),
        recipe=RECIPE,
        tasks=TASKS,
        secret=Secret(bytes(32)),
    )
    return pa.concat_tables(records.parts()).combine_chunks(), report


@given(st.lists(MEASURED, max_size=25))
@settings(deadline=None, max_examples=15)
def test_the_size_of_parts_changes_nothing(
    rows: list[tuple[str, str, float, float]],
) -> None:
    whole, report = prepared(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks.by_structure, "__defaults__", (1,))
        patch.setattr(label_columns, "PART_BYTES", 256)
        parts, same = prepared(rows)
    assert parts.equals(whole)
    assert same.as_dict() == report.as_dict()
    assert same.rejected_rows().to_numpy().tolist() == report.rejected_rows().to_numpy().tolist()


def test_a_chunk_has_whole_structures() -> None:
    structures = pd.Series(list("abacbbca"), dtype="category")
    measured = pd.DataFrame({"structure": structures, "value": np.arange(8.0)})
    found = [chunk["structure"].tolist() for chunk in chunks.by_structure(measured, 2)]
    assert found == [["a"] * 3, ["b"] * 3, ["c"] * 2]
    assert len(list(chunks.by_structure(measured[:0], 2))) == 1


@pytest.mark.parametrize(
    ("value", "side", "label"),
    [
        (3.0, 0, 1),
        (-3.0, 0, 1),
        (2.9, 0, 0),
        (-2.9, 0, 0),
        (4.0, 1, 1),
        (4.0, -1, None),
        (-4.0, -1, 1),
        (-4.0, 1, None),
        (1.0, 1, None),
        (1.0, -1, None),
        (0.0, 1, None),
    ],
)
def test_with_direction_either_the_distance_from_zero_counts(
    value: float, side: float, label: int | None
) -> None:
    rows = [("c0", "b", value, side), ("c1", "b", 9.0, 0.0), ("c2", "b", 0.0, 0.0)]
    table, _ = prepared(rows)
    assert table["screen"].to_pylist()[0] == label if table.num_rows else label is None


def test_a_group_has_its_own_quorum() -> None:
    rows = [(f"c{i}", assay, 9.0 * (i > 1), 0.0) for i in range(4) for assay in "ab"]
    tables, compounds = tables_of(rows)

    def kept(**said: object) -> set[str]:
        quorum = Quorum.model_validate({"classes": 1, "values": 1, "uncensored": 1, **said})
        return set(labels_of(tables, compounds, {}, quorum, Report())["task"])

    assert kept() == {"active", "screen", "number"}
    assert kept(negatives=3) == {"number"}
    assert kept(positives=3) == {"number"}
    assert kept(groups={"AUX": {"negatives": 3}}) == {"active", "number"}
    assert kept(negatives=3, groups={"AUX": {"classes": 2}}) == {"screen", "number"}
    assert kept(records=4) == {"active", "screen", "number"} and kept(records=5) == {"number"}
    assert kept(deviation=4.4) == {"active", "screen", "number"}
    assert kept(deviation=4.6) == {"active", "screen"}


@pytest.mark.parametrize("threshold", [None, 0.0, -1.0])
def test_direction_either_needs_a_distance(threshold: float | None) -> None:
    with pytest.raises(ValidationError, match="threshold"):
        AssayTask(direction="either", threshold=threshold)


def test_an_old_recipe_has_its_old_digest(tmp_path: Path) -> None:
    assert "group" not in AssayTask(threshold=6.0).model_dump(mode="json")


def test_weights_are_divided_among_the_tasks_of_an_assay() -> None:
    own = {
        "low": AssayTask(threshold=5.0),
        "high": AssayTask(threshold=7.0, weight=0.1),
        "number": AssayTask(kind="regression"),
        "other": AssayTask(threshold=1.0, weight=0.5),
    }
    of_assay = {"a": ["low", "high", "below its quorum", "number"], "b": ["other"]}
    found = {name: task.weight for name, task in with_divided_weights(own, of_assay).items()}
    assert found == {"low": 0.5, "high": 0.05, "number": 1.0, "other": 0.5}
    assert with_divided_weights(own, {"b": ["other", "low"]})["other"].weight == 0.25


def test_activities_of_several_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("compound,assay,value\n1,a,5\n2, b,6\n")
    (tmp_path / "two.csv").write_text("compound,assay,value\n3,b,7\n")
    said = Activities.model_validate({"file": ["one.csv", "two.csv"], "one_unit": "none"})
    found = read_activities(said, OwnFiles(tmp_path, None, print))
    assert found[["compound", "assay", "value", "row"]].to_numpy().tolist() == [
        ["1", "a", 5.0, 1],
        ["2", "b", 6.0, 2],
        ["3", "b", 7.0, 3],
    ]

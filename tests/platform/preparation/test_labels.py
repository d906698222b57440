"""Labels from tables: thresholds, qualifiers, repeats and quorums; errors quote no values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blindsum.platform.data.preparation.assemble import labels_of, structures_of
from blindsum.platform.data.preparation.recipe import AssayTask, Quorum, Recipe, Sources
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.tables import Tables, read_tables
from blindsum.platform.errors import DataError

CANARY = "C1CANARY7"
NO_QUORUM = Quorum(classes=1, values=1, uncensored=1)
RECIPE = Recipe.model_validate(
    {"features": {"kind": "ecfp", "bits": 64}, "tasks": {"shared": {"threshold": 6.0}}}
)
LONG = {
    "compounds": {"file": "compounds.csv"},
    "activities": {"file": "activities.csv", "qualifier": "q"},
}
Rows = list[tuple[str, float, int]]


def labels(
    task: AssayTask, rows: Rows, quorum: Quorum | None = None, inclusive: bool = False
) -> tuple[dict[str, tuple[float, float]], Report]:
    """Return value and side by structure. Two more structures meet a quorum of one per class."""
    measured = pd.DataFrame(rows, columns=["compound", "value", "side"]).assign(assay="x")
    measured["inclusive"] = inclusive
    fill = [("p", 1.0 if task.threshold is None else 99.0), ("n", 0.0)]
    more = pd.DataFrame(
        [(n, v, 0, "x", False) for n, v in fill],
        columns=["compound", "value", "side", "assay", "inclusive"],
    )
    measured = pd.concat([measured, more], ignore_index=True).assign(unit="", row=1)
    names = sorted(set(measured["compound"]))
    compounds = pd.DataFrame({"compound": names, "structure": names, "name": names})
    tables = Tables(compounds, measured, {"t": task}, {"x": ["t"]})
    report = Report()
    found = labels_of(tables, compounds, {}, quorum or NO_QUORUM, report)
    by = {
        r.structure: (r.value, r.side) for r in found.itertuples() if r.structure not in ("p", "n")
    }
    return by, report


@pytest.mark.parametrize(
    ("value", "side", "label"),
    [
        (6.0, 0, 1),
        (5.9, 0, 0),
        (6.0, 1, 1),
        (7.0, 1, 1),
        (5.0, 1, None),
        (6.0, -1, 0),
        (5.0, -1, 0),
        (6.5, -1, None),
    ],
)
def test_a_qualified_number_gives_a_class_only_if_it_lies_on_one_side(
    value: float, side: int, label: float | None
) -> None:
    found, report = labels(AssayTask(threshold=6.0), [("a", value, side)])
    assert found.get("a", (None, 0))[0] == label
    assert report.dropped_measurements["on both sides of the threshold"] == (label is None)


def test_an_inclusive_bound_may_equal_the_threshold() -> None:
    found, report = labels(AssayTask(threshold=6.0), [("a", 6.0, -1), ("b", 5.9, -1)], None, True)
    assert found == {"b": (0.0, 0.0)}
    assert report.dropped_measurements["on both sides of the threshold"] == 1


@pytest.mark.parametrize(
    ("value", "side", "inclusive", "label"),
    [
        (6.0, 0, False, 1),
        (6.1, 0, False, 0),
        (5.0, -1, False, 1),
        (6.0, -1, False, 1),
        (6.0, 1, False, 0),
        (6.0, 1, True, None),
        (6.0, -1, True, 1),
        (5.0, 1, False, None),
        (7.0, -1, False, None),
    ],
)
def test_with_direction_low_class_1_means_numbers_up_to_the_threshold(
    value: float, side: int, inclusive: bool, label: float | None
) -> None:
    task = AssayTask(threshold=6.0, direction="low")
    found, _ = labels(task, [("a", value, side)], None, inclusive)
    assert found.get("a", (None, 0))[0] == label


def test_numbers_that_a_job_would_refuse_are_not_credible() -> None:
    task = AssayTask(kind="regression", center=5.0, scale=2.0)
    found, report = labels(task, [("a", 204, 0), ("b", 206, 0), ("c", 1e300, 1)])
    assert set(found) == {"a"} and report.dropped_measurements["out of the credible range"] == 2


def test_a_structure_with_contradictory_classes_is_dropped() -> None:
    rows: Rows = [("a", 7, 0), ("a", 8, 0), ("b", 7, 0), ("b", 5, 0), ("c", 0.5, 0)]
    found, report = labels(AssayTask(threshold=6.0), rows)
    assert found == {"a": (1.0, 0.0), "c": (0.0, 0.0)}
    assert report.dropped_measurements["contradicted by another"] == 2
    assert report.dropped_measurements["one label for several of a structure"] == 1
    found, report = labels(AssayTask(), [("a", 1, 0), ("b", 0, 0), ("c", 0.5, 0), ("d", 1, 1)])
    assert found == {"a": (1.0, 0.0), "b": (0.0, 0.0)}
    assert report.dropped_measurements["neither 0 nor 1"] == 2


def test_numbers_are_medians_or_the_tightest_bound() -> None:
    rows: Rows = [
        ("a", 5, 0),
        ("a", 6, 0),
        ("a", 9, 0),
        ("a", 4, 1),
        ("b", 4, 1),
        ("b", 5, 1),
        ("c", 7, -1),
        ("c", 8, -1),
        ("d", 4, 1),
        ("d", 8, -1),
    ]
    found, report = labels(AssayTask(kind="regression"), rows)
    assert found == {"a": (6.0, 0.0), "b": (5.0, 1.0), "c": (7.0, -1.0)}
    assert report.dropped_measurements["contradicted by another"] == 2
    assert report.dropped_measurements["one label for several of a structure"] == 5


def test_incredible_numbers_are_dropped_and_counted() -> None:
    task = AssayTask(kind="regression", low=0.0, high=12.0)
    found, report = labels(task, [("a", 5, 0), ("b", 900, 0), ("c", -3, 0), ("d", float("nan"), 0)])
    assert set(found) == {"a"}
    assert report.dropped_measurements["out of the credible range"] == 2
    assert report.dropped_measurements["no number"] == 1


@pytest.mark.parametrize(
    ("task", "quorum", "kept"),
    [
        (AssayTask(), Quorum(classes=3, values=1, uncensored=1), True),
        (AssayTask(), Quorum(classes=4, values=1, uncensored=1), False),
        (AssayTask(kind="regression"), Quorum(classes=1, values=6, uncensored=5), True),
        (AssayTask(kind="regression"), Quorum(classes=1, values=7, uncensored=5), False),
        (AssayTask(kind="regression"), Quorum(classes=1, values=6, uncensored=6), False),
    ],
)
def test_tasks_below_their_quorum_are_dropped(task: AssayTask, quorum: Quorum, kept: bool) -> None:
    rows: Rows = [("a", 1, 0), ("b", 1, 0), ("c", 0, 0), ("d", 0, 0)]
    if task.kind == "regression":
        rows[3] = ("d", 0, 1)
    found, report = labels(task, rows, quorum)
    assert bool(found) == kept
    assert report.dropped_tasks["below quorum, own"] == (not kept)


MEASURED = st.tuples(
    st.sampled_from("abcd"), st.sampled_from([0.0, 1.0, 5.0, 6.0, 7.0]), st.sampled_from([-1, 0, 1])
)


@given(st.lists(MEASURED, max_size=30), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_structure_has_one_label_and_every_measurement_is_accounted_for(
    rows: Rows, binary: bool
) -> None:
    task = AssayTask(threshold=6.0) if binary else AssayTask(kind="regression")
    found, report = labels(task, rows)
    assert report.labels == len(found) + 2 and report.records == len(found) + 2
    assert report.labels + report.dropped_measurements.total() == len(rows) + 2
    exact = {c for c, _, side in rows if side == 0}
    if not binary:
        assert {s for s, (_, side) in found.items() if side == 0} == exact


def test_compounds_of_one_structure_are_one_record_and_ambiguous_names_are_dropped() -> None:
    compounds = pd.DataFrame(
        [("1", "OCC"), ("2", "CCO"), ("3", "X"), ("4", "CC"), ("4", "CCC"), ("", "C"), ("5", "")],
        columns=["compound", "smiles"],
    ).assign(row=range(1, 8))
    standard = pd.DataFrame(
        [
            ("OCC", "CCO", None),
            ("CCO", "CCO", None),
            ("X", None, "unparsable"),
            ("CC", "CC", None),
            ("CCC", "CCC", None),
            ("C", "C", None),
        ],
        columns=["text", "structure", "dropped"],
    )
    report = Report()
    found = structures_of(Tables(compounds, pd.DataFrame(), {}, {}), standard, report)
    assert found["compound"].tolist() == ["1", "2"] and report.merged_compounds == 1
    assert report.as_dict()["dropped_compounds"] == {
        "no structure or name": 2,
        "unparsable": 1,
        "several structures for one name": 2,
    }
    assert report.rejected_structures().to_numpy().tolist() == [
        [3, "unparsable"],
        [4, "several structures for one name"],
        [5, "several structures for one name"],
        [6, "no structure or name"],
        [7, "no structure or name"],
    ]


def written(folder: Path, **files: str) -> Path:
    given = {
        "compounds": "compound,smiles\n1,CCO\n2,CC\n",
        "activities": "compound,assay,value,q\n1,7,5,\n2,7,6,>\n",
        "assays": "assay,task,kind,threshold\n7,shared,,\n7,own,binary,5.5\n7,number,regression,\n",
    }
    for name, text in {**given, **files}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def read(folder: Path, **sources: object) -> Tables:
    said = Sources.model_validate({**LONG, "assays": "assays.csv", **sources})
    return read_tables(said, RECIPE, folder)


def test_long_tables_are_read(tmp_path: Path) -> None:
    found = read(written(tmp_path))
    assert found.compounds["compound"].tolist() == ["1", "2"]
    assert found.measurements["side"].tolist() == [0.0, 1.0]
    assert list(found.tasks) == ["shared", "own", "number"]
    assert found.of_assay == {"7": ["shared", "own", "number"]}
    assert "private" in repr(found)


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    """No name becomes a float or loses its leading zeros; blanks are stripped."""
    large = 2**53 + 1
    files = {
        "compounds": f"compound,smiles\n001,C\n{large},CC\n1E05,CCC\n",
        "activities": f"compound,assay,value,q\n001,07,5,\n{large},07,6,\n,07,6,\nA1,07,1,\n",
        "assays": "assay,task,kind,threshold\n 07 ,shared ,,\n07,1e5,binary,5\n",
    }
    found = read(written(tmp_path, **files))
    assert found.compounds["compound"].tolist() == ["001", str(large), "1E05"]
    assert found.measurements["compound"].tolist() == ["001", str(large), "", "A1"]
    assert found.of_assay == {"07": ["shared", "1e5"]}
    table = pa.table({"compound": pa.array([large, None], pa.int64()), "smiles": ["C", "CC"]})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    of_ints = read(tmp_path, compounds={"file": "c.parquet"})
    assert of_ints.compounds["compound"].tolist() == [str(large), ""]


def test_the_prepared_table_has_no_duplicate_column(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="name of another column"):
        Recipe.model_validate(
            {"features": {"kind": "ecfp"}, "tasks": {"a": {"kind": "regression"}, "a_side": {}}}
        )
    recipe = Recipe.model_validate({"features": {"kind": "ecfp"}, "tasks": {"a_side": {}}})
    said = Sources.model_validate({**LONG, "assays": "assays.csv"})
    with pytest.raises(DataError, match="name of another column"):
        read_tables(said, recipe, written(tmp_path, assays="assay,task,kind\n7,a,regression\n"))


def test_a_wide_table_gives_the_same_as_long_ones(tmp_path: Path) -> None:
    wide = {"file": "wide.csv", "compound": "id", "qualifiers": {"7": "q"}}
    text = "id,smiles,7,q\nx,CCO,5,\ny,CC,6,>\nz,CCC,,\n"
    said = Sources.model_validate({"wide": wide, "assays": "assays.csv"})
    found = read_tables(said, RECIPE, written(tmp_path, wide=text))
    long = read(tmp_path)
    assert found.measurements[["value", "side"]].equals(long.measurements[["value", "side"]])
    assert found.compounds["name"].tolist() == ["x", "y", "z"]
    assert np.isfinite(found.measurements["value"]).all()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"compounds": "name,smiles\n1,CCO\n"}, "compounds.csv: column 'compound' is missing"),
        ({"compounds": "compound,smiles\n"}, "has no rows"),
        (
            {"activities": f"compound,assay,value,q\n1,7,>5 {CANARY},\n"},
            "'value' is string, expected numbers. Put qualifiers such as",
        ),
        ({"activities": f"compound,assay,value,q\n1,7,5,{CANARY}\n"}, "qualifiers other than"),
        ({"assays": "assay,task\n"}, "assays.csv has no rows"),
        ({"assays": "assay,task,task\n7,a,b\n"}, "assays.csv has duplicate columns"),
        (
            {"activities": "compound;assay;value;q\n1;7;5;\n"},
            "is missing or duplicate. Correct its name in the sources file. (A CSV must have",
        ),
        (
            {"assays": f"assay,task,color\n7,{CANARY},x\n"},
            "assays.csv has unexpected columns (1 of 3)",
        ),
        (
            {"assays": f"assay,task,kind\n7,{CANARY},sort of\n"},
            "assays.csv, row 1: kind: Input should be",
        ),
        (
            {"assays": "assay,task,threshold\n7,shared,5\n"},
            "a shared task takes its settings from the recipe",
        ),
        ({"assays": f"assay,task\n7,{CANARY}\n7,{CANARY}\n"}, "row 2: no assay, or a duplicate"),
        (
            {"assays": "assay,task,threshold\n7,own,5\n8,own,6\n"},
            "row 2: the task has other settings",
        ),
        ({"assays": "assay,task\n7,fold\n"}, "name of another column"),
        (
            {"assays": "assay,task,weight\n7,own,-1\n"},
            "row 1: weight: Input should be greater than 0",
        ),
    ],
)
def test_errors_about_tables_name_the_fault_and_no_value(
    files: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        read(written(tmp_path, **files))
    assert said in str(error.value) and CANARY not in str(error.value)


def test_without_an_assay_table_the_recipes_tasks_are_the_assays(tmp_path: Path) -> None:
    found = read(written(tmp_path), assays=None)
    assert found.of_assay == {"shared": ["shared"]}
    bare = Recipe.model_validate({"features": {"kind": "ecfp"}})
    with pytest.raises(DataError, match="there is no task"):
        read_tables(Sources.model_validate(LONG), bare, tmp_path)
    with pytest.raises(DataError, match="there is no data file"):
        read(tmp_path, assays="none.csv")

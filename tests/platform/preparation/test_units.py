"""Units and relations: conversion is exact; other measurements are dropped, counted and listed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import Descriptors

from blindsum.platform.data.preparation.assemble import labels_of
from blindsum.platform.data.preparation.conversion import (
    NO_MASS,
    NO_UNIT,
    NOT_ABOVE_ZERO,
    OTHER_UNIT,
)
from blindsum.platform.data.preparation.manifest import differences, manifest_of
from blindsum.platform.data.preparation.recipe import AssayTask, Quorum, Recipe, Sources
from blindsum.platform.data.preparation.relations import ABOUT
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.preparation.tables import Tables, read_tables
from blindsum.platform.data.preparation.units import canonical, convert, unit_of
from blindsum.platform.errors import DataError

NO_QUORUM = Quorum(classes=1, values=1, uncensored=1)
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
MASS = Descriptors.MolWt(Chem.MolFromSmiles(ASPIRIN))  # type: ignore[attr-defined]
CANARY = "CANARY7"


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("uM", ["\u00b5M", "\u03bcM", "umol/L", "umol/l", "\u00b5mol L-1", "umol.l^-1", " uM "]),
        ("nM", ["nmol/L", "nmol.L-1"]),
        (
            "ug/mL",
            ["ug.mL-1", "ug ml-1", "mcg/ml", "\u00b5g/mL", "ug/ml", "\u00b5g mL\u207b\u00b9"],
        ),
        ("mg/L", ["mg/l", "mg.L-1"]),
        ("%", [" %"]),
        ("h", ["h"]),
    ],
)
def test_one_unit_has_one_spelling(unit: str, written: list[str]) -> None:
    assert {canonical(text) for text in (unit, *written)} == {unit}


@pytest.mark.parametrize(
    "text", ["nm", "NM", "MM", "um", "M-1 s-1", "L mol-1", "ug", "nM/L", "mL/min/kg"]
)
def test_texts_that_only_look_like_concentrations_are_other_units(text: str) -> None:
    assert unit_of(text).kind == "other" and canonical(text) == text


@pytest.mark.parametrize(
    ("value", "unit", "target", "expected"),
    [
        (10_000, "nM", "uM", 10),
        (0.3, "uM", "nM", 300),
        (5e-8, "M", "nM", 50),
        (7, "pM", "nM", 0.007),
        (2, "mM", "M", 0.002),
        (3, "ug/mL", "mg/L", 3),
        (3, "ug/mL", "ng/mL", 3000),
        (1, "mg/mL", "g/L", 1),
        (5, "mg/dL", "mg/L", 50),
    ],
)
def test_units_convert(value: float, unit: str, target: str, expected: float) -> None:
    found = convert(np.array([float(value)]), unit_of(unit), unit_of(target))
    assert found[0] == pytest.approx(expected, rel=1e-15)


@given(st.integers(1, 10**6))
@example(700)  # times 0.001 is 0.7000000000000001
def test_a_threshold_in_micromolar_is_met_exactly_by_nanomolar(number: int) -> None:
    found = convert(np.array([float(number)]), unit_of("nM"), unit_of("uM"))
    assert found[0] == float(f"{number}e-3")


def test_the_molar_mass_converts_between_mass_and_amount() -> None:
    mass = np.array([MASS])
    for value, unit, target, expected in (
        (MASS, "g/L", "M", 1.0),
        (1.0, "ug/mL", "uM", 1000 / MASS),
        (1.0, "uM", "ug/mL", MASS / 1000),
    ):
        found = convert(np.array([value]), unit_of(unit), unit_of(target), mass)
        assert found[0] == pytest.approx(expected, rel=1e-12)


Row = tuple[str, float, int, str]


def labels(
    task: AssayTask, rows: list[Row], shared: bool = False
) -> tuple[dict[str, tuple[float, float]], Report]:
    """Return value and side by structure, from rows of structure, number, relation and unit."""
    measured = pd.DataFrame(rows, columns=["compound", "value", "side", "unit"]).assign(
        assay="x", inclusive=False, row=range(1, len(rows) + 1)
    )
    measured["unit"] = measured["unit"].map(canonical)
    names = sorted(set(measured["compound"]))
    compounds = pd.DataFrame({"compound": names, "structure": names, "name": names})
    report = Report()
    tables = Tables(compounds, measured, {"t": task}, {"x": ["t"]})
    found = labels_of(tables, compounds, {"t"} if shared else {}, NO_QUORUM, report)
    return {r.structure: (r.value, r.side) for r in found.itertuples()}, report


def test_numbers_are_converted_to_the_tasks_unit_and_others_are_listed() -> None:
    rows: list[Row] = [
        ("C", 5000, 0, "nM"),
        ("CC", 5, 1, "\u00b5M"),
        ("CCC", 50, 0, "%"),
        (ASPIRIN, MASS, 0, "ug/mL"),
        ("CO", 3, 0, ""),
        ("*C", 1, 0, "ug/mL"),
        ("*CC", 1, 0, "mM"),
        ("CN", 40, 0, "%"),
    ]
    found, report = labels(AssayTask(kind="regression", unit="uM", center=5, scale=100), rows)
    assert found == {"C": (5, 0), "CC": (5, 1), ASPIRIN: (pytest.approx(1000), 0), "*CC": (1000, 0)}
    assert report.dropped_units == {"%": 2}
    counts = report.dropped_measurements
    assert (counts[OTHER_UNIT], counts[NO_UNIT], counts[NO_MASS]) == (2, 1, 1)
    rejected = report.rejected_rows()
    assert rejected[["row", "reason"]].to_numpy().tolist() == [
        [3, OTHER_UNIT],
        [5, NO_UNIT],
        [6, NO_MASS],
        [8, OTHER_UNIT],
    ]
    assert "rejected" not in report.as_dict() and "row" not in str(report.as_dict())


def test_p_molar_is_minus_log10_and_reverses_relations() -> None:
    rows: list[Row] = [
        ("C", 1000, 0, "nM"),
        ("CC", 10, 1, "uM"),
        ("CCC", 1, -1, "nM"),
        ("CO", 0, 0, "nM"),
        ("CN", -3, 1, "nM"),
        (ASPIRIN, MASS * 1e-3, 0, "mg/L"),
        ("CF", 90, 0, "%"),
    ]
    found, report = labels(AssayTask(kind="regression", transform="p_molar"), rows)
    assert found == {"C": (6, 0), "CC": (5, -1), "CCC": (9, 1), ASPIRIN: (6, 0)}
    assert report.dropped_measurements[NOT_ABOVE_ZERO] == 2 and report.dropped_units == {"%": 1}
    # A threshold is met at exactly 1 uM; > 10 uM is inactive, > 0.1 uM may be either.
    binary, _ = labels(
        AssayTask(threshold=6, transform="p_molar"),
        [
            ("C", 1000, 0, "nM"),
            ("CC", 1.0, 0, "uM"),
            ("CCC", 1001, 0, "nM"),
            ("CO", 10, 1, "uM"),
            ("CN", 0.1, 1, "uM"),
            ("CF", 1, -1, "uM"),
        ],
    )
    assert {s: v for s, (v, _) in binary.items()} == {"C": 1, "CC": 1, "CCC": 0, "CO": 0, "CF": 1}


def test_a_low_threshold_in_a_unit_gives_the_classes_of_a_high_one_in_p_molar() -> None:
    random = np.random.default_rng(5)
    rows: list[Row] = [
        ("C" * n, float(random.integers(1, 100_000)), int(random.integers(-1, 2)), "nM")
        for n in range(1, 90)
    ]
    low, _ = labels(AssayTask(threshold=10, unit="uM", direction="low"), rows)
    high, _ = labels(AssayTask(threshold=5, transform="p_molar"), rows)
    assert low == high and {v for v, _ in low.values()} == {0, 1}


@pytest.mark.parametrize("task", [AssayTask(kind="regression"), AssayTask(threshold=5.0)])
def test_several_units_are_refused_if_the_task_has_no_unit(task: AssayTask) -> None:
    mixed: list[Row] = [("C", 5, 0, "nM"), ("CC", 5, 0, "uM")]
    with pytest.raises(DataError, match="task 't' has measurements in more than one unit"):
        labels(task, mixed)
    one: list[Row] = [("C", 5, 0, "nM"), ("CC", 6, 0, "nM"), ("CCC", 1, 0, "nM")]
    assert labels(task, one)[0]
    # Another silo's numbers could be in uM: for a shared task, the recipe must name the unit.
    with pytest.raises(
        DataError, match="with units, but the task has no unit.* tasks.t in the recipe a unit"
    ):
        labels(task, one, shared=True)


def test_units_of_zeros_and_ones_are_ignored() -> None:
    found, _ = labels(AssayTask(), [("C", 1, 0, "nM"), ("CC", 0, 0, "%")], shared=True)
    assert found == {"C": (1, 0), "CC": (0, 0)}


RECIPE = Recipe.model_validate(
    {"features": {"kind": "ecfp", "bits": 64}, "tasks": {"7": {"kind": "regression", "unit": "nM"}}}
)
BARE = Recipe.model_validate(
    {"features": {"kind": "ecfp", "bits": 64}, "tasks": {"7": {"kind": "regression"}}}
)


def read(folder: Path, activities: str, recipe: Recipe = RECIPE, **said: str) -> Tables:
    (folder / "c.csv").write_text("compound,smiles\n1,CCO\n2,CC\n")
    (folder / "a.csv").write_text(activities)
    sources = {"compounds": {"file": "c.csv"}, "activities": {"file": "a.csv", **said}}
    return read_tables(Sources.model_validate(sources), recipe, folder)


RELATIONS = ["'='", "=", "==", "<", ">", "<=", ">=", "<<", ">>", "~", "'<'", "'>='", "=<", "≤"]


def test_relations_are_read_in_every_spelling(tmp_path: Path) -> None:
    rows = "".join(f"1,7,5,{r}\n" for r in RELATIONS) + "1,7,5,\n"
    found = read(tmp_path, f"compound,assay,value,q\n{rows}", BARE, qualifier="q").measurements
    expected = [0, 0, 0, -1, 1, -1, 1, -1, 1, np.nan, -1, 1, -1, -1, 0]
    np.testing.assert_array_equal(found["side"], expected)
    assert found["inclusive"].tolist() == [
        r.strip("'") in ("<=", ">=", "=<", "≤") for r in [*RELATIONS, ""]
    ]
    assert found["row"].tolist() == list(range(1, 16))


def test_approximate_measurements_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    text = "compound,assay,value,q\n1,7,5,\n2,7,5,~\n2,7,6,'='\n"
    tables = read(tmp_path, text, BARE, qualifier="q")
    compounds = pd.DataFrame(
        {"compound": ["1", "2"], "structure": ["CCO", "CC"], "name": ["1", "2"]}
    )
    report = Report()
    found = labels_of(tables, compounds, {"7"}, NO_QUORUM, report)
    assert dict(zip(found["structure"], found["value"], strict=True)) == {"CCO": 5, "CC": 6}
    assert report.dropped_measurements[ABOUT] == 1
    assert report.rejected_rows()["row"].tolist() == [2]


def test_a_units_column_is_read(tmp_path: Path) -> None:
    text = "compound,assay,value,standard_units\n1,7,5,\u00b5M\n2,7,5,\n"
    found = read(tmp_path, text, unit="standard_units").measurements
    assert found["unit"].tolist() == ["uM", ""]
    text = "compound,assay,value\n1,7,5\n"
    assert read(tmp_path, text, one_unit="nmol/L").measurements["unit"].tolist() == ["nM"]


@pytest.mark.parametrize("column", ["standard_units", "Unit", "UOM", "result unit"])
def test_several_units_in_a_column_that_the_sources_do_not_name_are_refused(
    column: str, tmp_path: Path
) -> None:
    text = f"compound,assay,value,{column}\n1,7,5,nM\n2,7,5,{CANARY}\n"
    with pytest.raises(
        DataError, match=f"'{column}' has several units.* activities.unit: {column}"
    ) as error:
        read(tmp_path, text, BARE)
    assert CANARY not in str(error.value)
    assert set(read(tmp_path, text, BARE, one_unit="none").measurements["unit"]) == {""}
    one = f"compound,assay,value,{column}\n1,7,5,nM\n2,7,5,nM\n2,7,5,\n"
    assert set(read(tmp_path, one, BARE).measurements["unit"]) == {""}
    community = f"compound,assay,value,community\n1,7,5,a\n2,7,5,{CANARY}\n"
    assert len(read(tmp_path, community, BARE).measurements) == 2


@pytest.mark.parametrize("said", [{}, {"one_unit": "none"}])
def test_a_task_with_a_unit_needs_measurements_with_one(
    said: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match="task '7' has a unit .* its measurements have no unit. Write activ"
    ):
        read(tmp_path, "compound,assay,value\n1,7,5\n", **said)
    # A silo that never ran the assay has no unit to name.
    assert len(read(tmp_path, "compound,assay,value\n1,8,5\n", **said).measurements) == 1


def test_a_wide_table_has_units_by_assay(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "features": {"kind": "ecfp", "bits": 64},
            "tasks": {n: {"kind": "regression", "unit": "nM"} for n in ("7", "8")},
        }
    )
    (tmp_path / "w.csv").write_text("smiles,7,8,8_unit\nCC,1,2,uM\nCCO,,3,%\n")

    def wide(**said: object) -> pd.DataFrame:
        sources = Sources.model_validate({"wide": {"file": "w.csv", **said}})
        return read_tables(sources, recipe, tmp_path).measurements

    found = wide(units={"7": "nM"}, unit_columns={"8": "8_unit"})
    assert found[["assay", "unit", "row"]].to_numpy().tolist() == [
        ["7", "nM", 1],
        ["8", "uM", 1],
        ["8", "%", 2],
    ]
    with pytest.raises(DataError, match="'8_unit' has several units"):
        wide(units={"7": "nM"})
    with pytest.raises(DataError, match="wide.units names assays that are not"):
        wide(units={"9": "nM"})
    with pytest.raises(ValidationError, match="in units or in unit_columns, not in both"):
        wide(units={"8": "nM"}, unit_columns={"8": "8_unit"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unit": "nM"}, "or a threshold"),
        ({"transform": "p_molar"}, "or a threshold"),
        ({"threshold": 5.0, "unit": "nM", "transform": "p_molar"}, "give unit or transform"),
        ({"direction": "low"}, "direction needs a threshold"),
        ({"kind": "regression", "direction": "low"}, "direction needs a threshold"),
        ({"threshold": 5.0, "unit": " "}, "write a unit, such as nM"),
    ],
)
def test_inconsistent_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AssayTask.model_validate(settings)
    with pytest.raises(ValidationError, match="give unit or one_unit, not both"):
        Sources.model_validate(
            {"compounds": {"file": "c"}, "activities": {"file": "a", "unit": "u", "one_unit": "nM"}}
        )


@pytest.mark.parametrize(
    ("key", "value"), [("unit", "uM"), ("transform", "p_molar"), ("direction", "low")]
)
def test_the_digest_covers_every_setting_that_changes_labels(key: str, value: str) -> None:
    def of(**more: object) -> Recipe:
        task = {"threshold": 5.0, **more}
        return Recipe.model_validate(
            {"features": {"kind": "ecfp", "bits": 64}, "tasks": {"a": task}}
        )

    secret = Secret(bytes(32))
    mine, theirs = manifest_of(of(), secret), manifest_of(of(**{key: value}), secret)
    assert mine["digests"]["recipe"] != theirs["digests"]["recipe"]
    assert any(f"tasks.a.{key}" in line for line in differences(mine, theirs))
    assert manifest_of(of(unit="\u00b5M"), secret) == manifest_of(of(unit="umol/L"), secret)

"""Each kind of features and folds states what it needs, and each kind in the schema has a class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from blindsum.platform.data.columns import Column
from blindsum.platform.data.feature_kind import FeatureKind
from blindsum.platform.data.features import features_of
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import Recipe
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.split import FoldKind, folds_of, fraction, scaffold_key
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.prediction.predictor import PICTURE
from blindsum.platform.tracking.model_logging import MORE

ROOT = Path(__file__).resolve().parents[2]

FEATURES: dict[str, dict[str, Any]] = {
    "columns": {"columns": {"dose": {}, "age": {"scale": 10.0}}},
    "descriptors": {"smiles": "structure", "descriptors": ["MolWt", "TPSA", "qed"]},
    "ecfp": {"smiles": "structure", "bits": 128},
    "graphs": {"smiles": "structure", "max_atoms": 10},
    "kernel": {"smiles": "structure", "dimensions": 16},
    "maccs": {"smiles": "structure"},
    "projection": {"smiles": "structure", "dimensions": 32},
    "fingerprint": {"column": "positions", "bits": 96},
    "text": {"column": "structure", "length": 9},
    "images": {"column": "picture", "height": 4, "width": 5, "channels": 1},
    "factory": {
        "function": "tests.platform.own_dataset:lengths",
        "columns": {"structure": "text", "dose": "number"},
        "shape": [2],
    },
}
FOLDS: dict[str, dict[str, Any]] = {
    "scaffold": {"salt": "s", "test_fraction": 0.5},
    "cluster": {"salt": "s", "test_fraction": 0.5},
    "time": {"column": "measured", "held_out_from": "2023-01-01"},
    "hash": {"column": "patient", "key": "integer", "salt": "s", "test_fraction": 0.5},
    "column": {"column": "part"},
    "random": {"salt": "s", "test_fraction": 0.5},
}
TABLE = pa.table(
    {
        "dose": [0.5, 1.0, 2.0],
        "age": [30, 40, 50],
        "structure": ["CCO", "c1ccccc1O", "C1CCCCC1"],
        "positions": [[0, 3], [], [95]],
        "picture": [PICTURE] * 3,
        "patient": [7, 8, 9],
        "part": ["train", "test", "train"],
        "measured": ["2023-01-01", "2022-12-31", "2024-05-31"],
    }
)
PATH = Path("table.parquet")


def contract(features: str = "ecfp", folds: str = "column", **changed: Any) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": features, **FEATURES[features]},
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": folds, **FOLDS[folds], **changed},
        }
    )


def features(kind: str) -> FeatureKind:
    return features_of(contract(kind).features)


def folds(kind: str, **changed: Any) -> FoldKind:
    return folds_of(contract(folds=kind, **changed).folds)


def stated(columns: list[Column]) -> dict[str, str]:
    return {column.name: column.type.expected for column in columns}


@pytest.mark.parametrize(
    ("kind", "columns", "smiles", "width"),
    [
        ("columns", {"dose": "a number", "age": "a number"}, None, 2),
        ("descriptors", {"structure": "text"}, "structure", 3),
        ("ecfp", {"structure": "text"}, "structure", 128),
        ("graphs", {"structure": "text"}, "structure", 170),
        ("kernel", {"structure": "text"}, "structure", 16),
        ("maccs", {"structure": "text"}, "structure", 166),
        ("projection", {"structure": "text"}, "structure", 32),
        ("fingerprint", {"positions": "lists of integers"}, None, 96),
        ("text", {"structure": "text"}, None, 9),
        ("images", {"picture": "pictures: bytes, or the names of their files"}, None, 20),
        ("factory", {"structure": "text", "dose": "a number"}, None, 2),
    ],
)
def test_features_state_their_columns_and_width(
    kind: str, columns: dict[str, str], smiles: str | None, width: int
) -> None:
    one = features(kind)
    assert stated(one.columns()) == columns
    assert one.smiles_column == smiles
    one.check(TABLE, PATH)
    made = one.compute(TABLE)
    assert made.features.shape == (3, width) and one.width == width and made.usable.all()
    section = contract(kind).features
    assert section.inputs == set(columns), "the schema and the class name the same columns"
    assert section.smiles_column == smiles


@pytest.mark.parametrize(
    ("kind", "changed", "columns", "text_in_csv"),
    [
        ("scaffold", {}, {}, []),
        ("cluster", {}, {}, []),
        ("time", {}, {"measured": "a date"}, ["measured"]),
        ("hash", {}, {"patient": "an integer (data.folds.key)"}, []),
        ("hash", {"key": "text"}, {"patient": "text (data.folds.key)"}, ["patient"]),
        ("random", {}, {}, []),
        ("column", {}, {"part": "text"}, []),
        ("column", {"held_out": 2}, {"part": "an integer"}, []),
    ],
)
def test_folds_state_their_columns(
    kind: str, changed: dict[str, Any], columns: dict[str, str], text_in_csv: list[str]
) -> None:
    stated_ = folds(kind, **changed).columns()
    assert stated(stated_) == columns
    assert [column.name for column in stated_ if column.type.text_in_csv] == text_in_csv


@pytest.mark.parametrize("kind", FEATURES)
def test_a_model_that_reads_molecules_needs_rdkit_where_it_is_served(kind: str) -> None:
    assert ("rdkit" in MORE.get(kind, ())) == (features(kind).smiles_column is not None)


def test_folds_hold_out_what_their_rule_says() -> None:
    assert folds("column").held_out(TABLE, features("columns")).tolist() == [False, True, False]
    ages = folds("column", column="age", held_out=50)
    assert ages.held_out(TABLE, features("columns")).tolist() == [False, False, True]
    by_patient = folds("hash").held_out(TABLE, features("columns"))
    assert by_patient.tolist() == [fraction("s", key) < 0.5 for key in "789"]
    by_scaffold = folds("scaffold").held_out(TABLE, features("ecfp"))
    keys = map(scaffold_key, TABLE["structure"].to_pylist())
    assert by_scaffold.tolist() == [fraction("s", key) < 0.5 for key in keys]


@pytest.mark.parametrize("kind", ["columns", "fingerprint"])
def test_scaffolds_need_molecules(kind: str) -> None:
    with pytest.raises(ValueError, match="folds.kind scaffold needs features with a smiles column"):
        contract(kind, "scaffold")
    with pytest.raises(DataError, match="scaffold folds need a SMILES column"):
        folds("scaffold").held_out(TABLE, features(kind))


def found(name: str, values: list[Any]) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("kind", "name", "values", "said"),
    [
        (features("columns"), "dose", ["C"] * 3, "'dose' is string, expected a number"),
        (features("descriptors"), "structure", [7.5] * 3, "'structure' is double, expected text"),
        (features("ecfp"), "structure", [7] * 3, "'structure' is int64, expected text"),
        (
            features("fingerprint"),
            "positions",
            [[7.5]] * 3,
            "'positions' is list<item: double>, expected lists of integers",
        ),
        (
            folds("hash"),
            "patient",
            ["7"] * 3,
            "'patient' is string, expected an integer (data.folds.key)",
        ),
        (
            folds("hash", key="text"),
            "patient",
            [7] * 3,
            "'patient' is int64, expected text (data.folds.key)",
        ),
        (folds("column"), "part", [7] * 3, "'part' is int64, expected text"),
        (folds("column", held_out=1), "part", ["7"] * 3, "'part' is string, expected an integer"),
    ],
)
def test_a_column_of_another_type_is_refused_without_its_values(
    kind: FeatureKind | FoldKind, name: str, values: list[Any], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        kind.check(found(name, values), PATH)
    hint = "Convert the column; all silos must agree on its type."
    assert str(caught.value).startswith(f"table.parquet: column {said}. {hint}")
    with pytest.raises(DataError, match=f"table.parquet: column '{name}' is missing"):
        kind.check(TABLE.drop_columns(name), PATH)


def kinds(schema: type[BaseModel], field: str) -> dict[str, type[BaseModel]]:
    """The sections that a field of the schema may have, by their kind."""
    sections = get_args(schema.model_fields[field].annotation)
    return {get_args(one.model_fields["kind"].annotation)[0]: one for one in sections}


@pytest.mark.parametrize(
    ("schema", "field", "factory", "base"),
    [
        (DataSection, "features", features_of, "FeatureKind"),
        (DataSection, "folds", folds_of, "FoldKind"),
        (Recipe, "features", prepared_features_of, "PreparedFeatures"),
    ],
)
def test_each_kind_in_the_schema_has_a_class_of_its_own(
    schema: type[BaseModel], field: str, factory: Any, base: str
) -> None:
    sections = kinds(schema, field)
    assert len(sections) > 1
    # `model_construct` checks no settings: the class of the section alone decides.
    classes = {type(factory(section.model_construct())) for section in sections.values()}
    assert len(classes) == len(sections), "one class a kind"
    assert all(base in {parent.__name__ for parent in one.__mro__} for one in classes)


def test_this_file_tries_each_kind() -> None:
    assert FEATURES.keys() == kinds(DataSection, "features").keys()
    assert FOLDS.keys() == kinds(DataSection, "folds").keys()


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "ecfp", "bits": 128},
        {"kind": "descriptors", "descriptors": ["MolWt", "TPSA"]},
        {"kind": "descriptors", "descriptors": "physchem"},
        {"kind": "maccs"},
        {"kind": "projection", "dimensions": 32},
        {"kind": "kernel", "dimensions": 8},
    ],
)
def test_a_job_reads_the_features_that_a_preparation_wrote(section: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"features": section})
    prepared, secret = prepared_features_of(recipe.features), Secret(b"k" * 32)
    stage = prepared.stage.compute(["CCO", "Oc1ccccc1"])
    table = pa.table(prepared.columns(stage, secret))
    job = contract().model_dump() | {"features": prepared.job_section()}
    read = features_of(DataSection.model_validate(job).features)
    read.check(table, PATH)
    made = read.compute(table)
    assert made.features.shape == (2, read.width) and made.usable.all()
    assert len(prepared.comparable(stage, secret)) == 2
    assert set(table.column_names) <= {"fingerprint", *recipe.features.own_columns}


def test_plain_columns_load_without_rdkit() -> None:
    """It takes 45 MiB in each silo's process, and many jobs have no molecules."""
    program = (
        "import sys, pyarrow as pa\n"
        "from blindsum.platform.data import table\n"
        "from blindsum.platform.data.features import features_of\n"
        "from blindsum.platform.job.data_section import Columns, Ecfp\n"
        "section = Columns.model_validate({'kind': 'columns', 'columns': {'x': {}}})\n"
        "features_of(section).compute(pa.table({'x': [1.0]}))\n"
        "assert features_of(Ecfp(kind='ecfp', bits=64)).width == 64\n"
        "print('rdkit' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_rdkit_does_not_quote_molecules_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    made = features("ecfp").compute(pa.table({"structure": ["C1CANARY7", "CCO"]}))
    np.testing.assert_array_equal(made.usable, [False, True])
    assert "CANARY" not in "".join(capfd.readouterr())


def test_every_module_that_reads_smiles_turns_the_log_of_rdkit_off() -> None:
    """A module may be the first that imports RDKit, now that plain columns do without it."""
    sources = [
        p for room in ("platform", "pipelines", "actors") for p in (ROOT / room).rglob("*.py")
    ]
    reading = [path for path in sources if "MolFromSmiles" in path.read_text()]
    assert len(reading) > 3
    loud = [path.name for path in reading if 'rdBase.DisableLog("rdApp.*")' not in path.read_text()]
    assert loud == []

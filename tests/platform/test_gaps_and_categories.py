"""Gaps, categories and dates count as the job says, the same in every silo and kind of file."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.data.scaling import CLIP
from blindsum.platform.data.table import SiloData, load_data, table_fingerprints
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.features_section import Columns

CANARY = "canary-71623"

AGE = {"center": 50, "scale": 10, "missing": {"value": 50, "indicator": True, "codes": [-9]}}
SEX = {"categories": ["m", "f"], "missing": {"indicator": True}}
STAGE = {"categories": [1, 2, 3], "other": True, "missing": {"value": 2}}
SMOKER = {"categories": [True, False], "missing": {"value": False}}
SEEN = {"date": {"since": "2020-01-01"}, "scale": 100, "missing": {"value": "2020-01-31"}}
MIXED = {"age": AGE, "sex": SEX, "stage": STAGE, "smoker": SMOKER, "seen": SEEN}


def kind(columns: dict[str, Any]) -> ColumnFeatures:
    found = features_of(Columns.model_validate({"kind": "columns", "columns": columns}))
    assert isinstance(found, ColumnFeatures)
    return found


def made(columns: dict[str, Any], **values: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    found, table = kind(columns), pa.table(values)
    table = found.uniform(table)
    assert found.rejected(table) == []
    features = found.compute(table).features
    assert isinstance(features, np.ndarray) and features.shape[1] == found.width
    return features


NUMBERS = st.floats(-1e6, 1e6)


@given(
    values=st.lists(st.none() | st.just(math.nan) | st.just(-9.0) | NUMBERS, min_size=1),
    fill=NUMBERS,
)
def test_a_gap_is_filled_and_told_as_by_hand(values: list[float | None], fill: float) -> None:
    missing = {"value": fill, "indicator": True, "codes": [-9]}
    found = made({"x": {"center": 3, "scale": 7, "missing": missing}}, x=pa.array(values))
    gap = [x is None or math.isnan(x) or x == -9 for x in values]
    filled = [fill if no else x for x, no in zip(values, gap, strict=True)]
    by_hand = made({"x": {"center": 3, "scale": 7}, "g": {}}, x=filled, g=np.array(gap, float))
    assert (found == by_hand).all()


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_a_code_with_a_fraction_is_a_gap_in_columns_of_every_precision(kind: pa.DataType) -> None:
    """-99.9 as float32 is another double than -99.9."""
    missing = {"value": 2.0, "codes": [-99.9, 1e300]}
    values = pa.array(np.array([1.0, -99.9], kind.to_pandas_dtype()))
    found = made({"x": {"missing": missing}}, x=values)
    np.testing.assert_array_equal(found.ravel(), [1.0, 2.0])


@given(
    order=st.permutations(["a", "b", "c"]),
    values=st.lists(st.sampled_from(["a", "b", "c", "d", "", None]), min_size=1),
)
def test_each_category_has_its_own_place(order: list[str], values: list[str | None]) -> None:
    column = {"categories": order, "other": True, "missing": {"indicator": True}}
    found = made({"x": column}, x=pa.array(values, pa.string()))
    places = [*order, "d", None]
    assert found.shape == (len(values), 5)
    assert [places[int(row.argmax())] for row in found] == [value or None for value in values]
    assert (found.sum(1) == 1).all() and set(found.flat) <= {0.0, 1.0}


@given(days=st.lists(st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)), min_size=1))
def test_dates_are_days_since_a_public_one(days: list[dt.date | None]) -> None:
    column = {"date": {"since": "2020-01-01"}, "scale": 1e5, "missing": {"value": "2020-02-01"}}
    filled = [day or dt.date(2020, 2, 1) for day in days]
    since = [(day - dt.date(2020, 1, 1)).days for day in filled]
    expected = made({"x": {"scale": 1e5}}, x=np.array(since, float))
    noons = [day and dt.datetime.combine(day, dt.time(23, 59, 59, 999999)) for day in days]
    texts = [day.isoformat() if day else "" for day in days]
    for values in (
        pa.array(days, pa.date32()),
        pa.array(days, pa.date64()),
        pa.array(noons, pa.timestamp("us")),
        pa.array(noons, pa.timestamp("us", "UTC")),
        pa.array(texts),
        pa.array([f"{text} 12:30" if text else None for text in texts], pa.string()),
        pa.array([f"{text}T22:30:00-01:00" if text else None for text in texts], pa.string()),
    ):
        assert (made({"x": column}, x=values) == expected).all()


def test_a_zone_counts_in_utc_whether_a_time_is_text_or_not() -> None:
    late = dt.datetime(2020, 1, 1, 23, 30, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
    column = {"x": {"date": {"since": "2020-01-01"}}}
    zoned = pa.array([late], pa.timestamp("s", "America/New_York"))
    assert made(column, x=zoned) == made(column, x=[late.isoformat()]) == 1


def test_features_are_named_and_those_that_are_scaled_known() -> None:
    found = kind(MIXED)
    assert found.names == [
        *("age", "age (missing)", "sex=m", "sex=f", "sex (missing)"),
        *("stage=1", "stage=2", "stage=3", "stage (other)", "smoker=true", "smoker=false", "seen"),
    ]
    assert found.width == 12
    assert [n for n, x in zip(found.names, found.is_scaled, strict=True) if x] == ["age", "seen"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False, None]),
        pa.array([1, 0, None], pa.int8()),
        pa.array([1.0, 0.0, math.nan]),
        pa.array([1, 0, None], pa.uint64()),
    ],
)
def test_booleans_and_numbers_are_categories_by_their_values(values: pa.Array) -> None:
    for names in ([True, False], [1, 0]):
        column = {"categories": names, "missing": {"value": names[1]}}
        assert made({"x": column}, x=values).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_column_of_nothing_but_gaps_is_one_of_gaps() -> None:
    found = made(MIXED, **{name: pa.nulls(2) for name in MIXED})
    assert found[0].tolist() == pytest.approx([0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0.3])


def contract(columns: dict[str, Any], **folds: Any) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "columns", "columns": columns},
            "target": {"column": "diagnosis", "classes": ["healthy", "ill"]},
            "folds": folds or {"kind": "random", "salt": "s", "test_fraction": 0.3},
        }
    )


def records(count: int = 60) -> pa.Table:
    rows = range(count)
    return pa.table(
        {
            "age": pa.array([None if i % 7 == 0 else -9 if i % 7 == 1 else 30 + i for i in rows]),
            "sex": pa.array([("m", "f", None)[i % 3] for i in rows]),
            "stage": pa.array([(1, 2, 3, 9, None)[i % 5] for i in rows]),
            "smoker": pa.array([(True, False, None)[i % 3] for i in rows]),
            "seen": pa.array(
                [None if i % 4 == 0 else dt.date(2020, 1, 1) + dt.timedelta(i) for i in rows]
            ),
            "diagnosis": [("healthy", "ill")[i % 2] for i in rows],
        }
    )


def load(table: pa.Table, section: DataSection, folder: Path, name: str = "t.parquet") -> SiloData:
    path = folder / name
    writer = pyarrow.csv.write_csv if name.endswith("csv") else pq.write_table
    writer(table, path)
    return load_data(path, section, folder / "rejected_rows.csv")


def test_a_csv_and_a_parquet_file_are_one_dataset_with_the_same_folds(tmp_path: Path) -> None:
    section, table = contract(MIXED), records()
    texts = ["" if text is None else text for text in table.column("sex").to_pylist()]
    in_csv = table.set_column(1, "sex", pa.array(texts)).select(reversed(table.column_names))
    categories = table.set_column(1, "sex", table.column("sex").dictionary_encode())
    one = load(table, section, tmp_path)
    assert one.train.width == 12
    for other in (
        load(in_csv, section, tmp_path, "t.csv"),
        load(categories.take(list(range(59, -1, -1))), section, tmp_path, "u.parquet"),
    ):
        assert other.fingerprint == one.fingerprint
        assert other.records.at_most(2**64) == one.records.at_most(2**64)
        assert len(other.test) == len(one.test)
        rows = [sorted(d.test.features.tolist()) for d in (one, other)]
        assert rows[0] == rows[1]
    path = tmp_path / "t.csv"
    assert table_fingerprints(path, section, tmp_path / "r.csv")[0] == one.fingerprint


def test_other_settings_are_still_the_same_dataset(tmp_path: Path) -> None:
    """What a gap counts as is no way to a second budget."""
    settings = MIXED | {"age": AGE | {"missing": {"value": 40}}, "sex": SEX | {"categories": ["m"]}}
    settings["sex"]["other"] = True
    one, other = (load(records(), contract(c), tmp_path) for c in (MIXED, settings))
    assert one.fingerprint == other.fingerprint and one.train.width != other.train.width


def refusal(table: pa.Table, columns: dict[str, Any], folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(table, contract(columns), folder)
    return str(caught.value)


def test_what_the_job_does_not_allow_is_refused_without_its_values(tmp_path: Path) -> None:
    table = records()
    odd = {"sex": CANARY, "smoker": None, "seen": CANARY, "age": math.inf}
    for name, value in odd.items():
        values = table.column(name).to_pylist()
        values[11] = value
        texts = [str(v) if v else None for v in values] if name == "seen" else values
        if name == "age":
            texts = [None if v is None else float(v) for v in values]
        table = table.set_column(table.column_names.index(name), name, pa.array(texts))
    bare = {name: {k: v for k, v in one.items() if k != "missing"} for name, one in MIXED.items()}
    said = refusal(table, MIXED | {"smoker": bare["smoker"], "stage": bare["stage"]}, tmp_path)
    for part in (
        "column 'age' has infinite values",
        "column 'sex' has values that are not among its categories",
        "columns 'stage' and 'smoker' have missing, NaN or infinite values",
        "column 'seen' has text that is not a date",
        "data.features.columns.NAME.missing",
        "other: true",
    ):
        assert part in said
    listed = (tmp_path / "rejected_rows.csv").read_text()
    assert f"12,sex,not one of its categories,{CANARY}" in listed
    assert f"12,seen,text that is not a date,{CANARY}" in listed
    hidden = said.replace(str(tmp_path), "")
    assert CANARY not in hidden and not any(word.isdigit() for word in hidden.split())


def test_gaps_in_a_key_of_folds_are_refused_whatever_they_count_as(tmp_path: Path) -> None:
    folds = {"kind": "hash", "column": "sex", "salt": "s", "test_fraction": 0.3}
    with pytest.raises(DataError, match="column 'sex' has missing"):
        load(records(), contract(MIXED, **folds), tmp_path)


def test_a_gap_or_category_that_a_silo_does_not_have_is_nothing_odd(tmp_path: Path) -> None:
    table = records()
    table = table.set_column(0, "age", pa.array([40.0 + i for i in range(60)]))
    table = table.set_column(2, "stage", pa.nulls(60, pa.int64()))
    data = load(table, contract(MIXED), tmp_path)
    (said,) = [text for text in data.concerns if "one value" in text]
    assert "stage=2 have one value" in said and "age (missing)" not in said


def test_identifiers_among_gaps_are_still_odd(tmp_path: Path) -> None:
    huge = pa.array([None if i % 7 == 0 else 2**60 + i for i in range(60)])
    data = load(records().set_column(0, "age", huge), contract(MIXED), tmp_path)
    assert any("age have integers beyond 2^53" in text for text in data.concerns)
    empty = records().set_column(0, "age", pa.nulls(60, pa.int64()))
    assert load(empty, contract(MIXED), tmp_path).concerns


def case() -> pa.Table:
    """What shared/cases has as gaps_and_categories.parquet."""
    random, count = np.random.default_rng(0), 60
    age = random.normal(50, 10, count).round(1)
    age[::7] = np.nan
    frame = pd.DataFrame(
        {
            "age": age,
            "bp": random.integers(90, 180, count),
            "diagnosis": np.where(random.random(count) < 0.5, "ill", "healthy"),
            "sex": ["m", "f", None] * 20,
        }
    )
    return pa.Table.from_pandas(frame)


def test_a_table_with_gaps_and_categories_is_trained_on_or_refused_at_once(tmp_path: Path) -> None:
    table, bp = case(), {"center": 130, "scale": 20}
    data = load(table, contract({"age": AGE, "bp": bp, "sex": SEX}), tmp_path)
    assert len(data.train) + len(data.test) == 60 and data.dropped == 0
    assert data.train.width == 6
    assert np.abs(data.train.features).max() <= CLIP
    said = refusal(table, {"age": {"center": 50}, "bp": bp, "sex": {}}, tmp_path)
    assert "column 'sex' is" in said and "columns 'age' and 'sex' have missing, NaN or inf" in said
    assert "Text needs its categories" in said and "missing can say what a gap counts as" in said
    said = refusal(table, {"age": {}, "bp": bp, "sex": {"categories": ["m", "f"]}}, tmp_path)
    assert "columns 'age' and 'sex' have missing, NaN or infinite values" in said

"""A table has one fingerprint, whichever program wrote it, and other tables have others."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data.fingerprint import Fingerprint, earlier_fingerprints
from blindsum.platform.data.record_digests import record_digests
from blindsum.platform.data.record_order import record_order


def newest(table: pa.Table, parts: int = 1) -> str:
    found = Fingerprint()
    for start in range(0, table.num_rows, max(table.num_rows // parts, 1)):
        part = table.slice(start, max(table.num_rows // parts, 1))
        found.add(part.column_names, record_digests(part)[0])
    return found.hexdigest()


BASE = {
    "name": pa.array(["b", "a", None]),
    "x": pa.array([0.0, 1.5, None]),
    "n": pa.array([1, 2, 3]),
}
GOLDEN = newest(pa.table(BASE))


@pytest.mark.parametrize(
    "change",
    [
        {"name": pa.array(["b", "a", None], pa.large_string())},
        {"name": pa.array(["b", "a", None], pa.string_view())},
        {"name": pa.array(["b", "a", None]).dictionary_encode()},
        {"x": pa.array([-0.0, 1.5, None])},
        {"x": pa.array([0.0, 1.5, np.nan])},
        {"x": pa.array([0.0, 1.5, None], pa.float32())},
        {"n": pa.array([1, 2, 3], pa.int8())},
        {"n": pa.array([1.0, 2.0, 3.0])},
    ],
)
def test_the_fingerprint_does_not_depend_on_the_files_writer(change: dict[str, pa.Array]) -> None:
    assert newest(pa.table(BASE | change)) == GOLDEN


def test_an_untyped_empty_column_equals_a_column_of_gaps() -> None:
    for empty in (pa.nulls(3), pa.nulls(3, pa.float64()), pa.array([np.nan] * 3)):
        assert newest(pa.table(BASE | {"x": empty})) == newest(
            pa.table(BASE | {"x": pa.nulls(3, pa.float64())})
        )


def test_the_fingerprint_depends_on_the_records_but_not_their_order() -> None:
    table = pa.table(BASE)
    assert newest(table.take([2, 0, 1])) == GOLDEN
    assert newest(table.select(["x", "n", "name"])) == GOLDEN
    for other in (
        table.slice(1),
        table.rename_columns(["name", "y", "n"]),
        pa.table(BASE | {"n": pa.array([1, 2, 4])}),
        pa.table(BASE | {"name": pa.array(["b", "a", ""])}),
        pa.table(BASE | {"x": pa.array([None, 1.5, 0.0])}),
    ):
        assert newest(other) != GOLDEN


def test_the_fingerprint_does_not_depend_on_the_parts_in_which_a_table_is_read() -> None:
    random = np.random.default_rng(0)
    table = pa.table({"x": random.normal(size=100), "n": random.integers(0, 3, 100)})
    assert {newest(table, parts) for parts in (1, 2, 7, 100)} == {newest(table)}


def test_earlier_fingerprints_are_computed_for_both_types_of_text() -> None:
    table = pa.table(BASE)
    large = table.set_column(0, "name", table.column("name").cast(pa.large_string()))
    version_2, *version_1 = earlier_fingerprints(table)
    again, *of_large = earlier_fingerprints(large)
    assert version_2 == again and set(version_1) == set(of_large) and len(version_1) == 2


def test_the_fingerprint_itself_never_changes() -> None:
    """With another fingerprint, every lifetime limit would start again."""
    table = pa.table({"k": ["x", "y"], "v": [1.0, -2.5]})
    assert newest(table) == "d553a46564940594d9f7bb6d7d33515104e78bc51a454f8a2c1a009da9c9fde7"
    assert earlier_fingerprints(table) == (
        "fc06c944bb4e29c247fca07a3bc4b9c8b6a01030724122865c6c50761224f0da",
        "07d0674c66bf6b66c006e0cd42a639112d8b3bba73071f854ab73a6f4fc18eb3",
        "d75ad1a70cb4b5bf9fb5fa79b163149297a322adbde1b79bf6c347a06f95fea1",
    )


FEW_VALUES = {
    pa.float64(): [0.0, -0.0, 1.5, np.nan, np.inf, None],
    pa.float32(): [0.0, 1.5, np.nan],
    pa.int64(): [2**60, 2**60 + 1, -1, None],
    pa.string(): ["", "a", "b", "é", None],
    pa.large_string(): ["", "a", "b"],
    pa.bool_(): [True, False, None],
    pa.null(): [None],
}


@settings(max_examples=200)
@given(st.data())
def test_the_order_of_records_is_that_of_arrow(data: st.DataObject) -> None:
    """Past fingerprints were taken in Arrow's own order, with NaN, gaps and both zeros in it."""
    rows, kinds = data.draw(st.integers(1, 30)), st.sampled_from(sorted(FEW_VALUES, key=str))
    columns = []
    for kind in data.draw(st.lists(kinds, min_size=1, max_size=14)):
        values = st.lists(st.sampled_from(FEW_VALUES[kind]), min_size=rows, max_size=rows)
        columns.append(pa.array(data.draw(values), kind))
    names = [f"c{i}" for i in range(len(columns))]
    by = [(name, "ascending") for name in names]
    expected = pc.sort_indices(pa.table(columns, names), by)
    assert record_order(columns).tolist() == expected.to_pylist()


def test_three_earlier_fingerprints_are_those_that_earlier_versions_computed() -> None:
    """Computed by the version before: records that are there twice, ties, gaps, lists and text."""
    table = pa.table(
        {
            "d": pa.array([0.0, -0.0, np.nan, None, 0.0], pa.float64()),
            "c": pa.array([[1, 2], [], None, [3], [1, 2]], pa.list_(pa.int32())),
            "b": pa.array(["x", None, "y", "", "x"]).dictionary_encode(),
            "a": pa.array([2**53 + 1, 2**53, 1, None, 2**53 + 1], pa.int64()),
            "e": pa.nulls(5),
        }
    )
    assert earlier_fingerprints(pa.concat_tables([table, table])) == (
        "57c5a1ff822e55346cf3c4982c959ce06ff6cf96c72846f9fc1d2f1621b49ab6",
        "b51f61b0c3d9d76aad9e41b9201a16a1486b48e2e1c0a982b0541d1eefd64df0",
        "907087e2b686f295045cfc63090c02a5cd2ca58bedad1ca46860e6ff54ba4d13",
    )

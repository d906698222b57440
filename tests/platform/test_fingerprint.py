"""A table has one fingerprint, whichever program wrote it, and other tables have others."""

import numpy as np
import pyarrow as pa
import pytest

from blindsum.platform.data.fingerprint import fingerprints

BASE = {
    "name": pa.array(["b", "a", None]),
    "x": pa.array([0.0, 1.5, None]),
    "n": pa.array([1, 2, 3]),
}
GOLDEN = fingerprints(pa.table(BASE))[0]


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
    assert fingerprints(pa.table(BASE | change))[0] == GOLDEN


def test_an_untyped_empty_column_equals_a_column_of_gaps() -> None:
    for empty in (pa.nulls(3), pa.nulls(3, pa.float64()), pa.array([np.nan] * 3)):
        assert (
            fingerprints(pa.table(BASE | {"x": empty}))[0]
            == fingerprints(pa.table(BASE | {"x": pa.nulls(3, pa.float64())}))[0]
        )


def test_the_fingerprint_depends_on_the_records_but_not_their_order() -> None:
    table = pa.table(BASE)
    assert fingerprints(table.take([2, 0, 1]))[0] == GOLDEN
    assert fingerprints(table.select(["x", "n", "name"]))[0] == GOLDEN
    for other in (
        table.slice(1),
        table.rename_columns(["name", "y", "n"]),
        pa.table(BASE | {"n": pa.array([1, 2, 4])}),
        pa.table(BASE | {"name": pa.array(["b", "a", ""])}),
        pa.table(BASE | {"x": pa.array([None, 1.5, 0.0])}),
    ):
        assert fingerprints(other)[0] != GOLDEN


def test_earlier_fingerprints_are_computed_for_both_types_of_text() -> None:
    table = pa.table(BASE)
    large = table.set_column(0, "name", table.column("name").cast(pa.large_string()))
    assert set(fingerprints(table)[1]) == set(fingerprints(large)[1])
    assert len(fingerprints(table)[1]) == 2


def test_the_fingerprint_itself_never_changes() -> None:
    """With another fingerprint, every lifetime limit would start again."""
    assert fingerprints(pa.table({"k": ["x", "y"], "v": [1.0, -2.5]})) == (
        "fc06c944bb4e29c247fca07a3bc4b9c8b6a01030724122865c6c50761224f0da",
        (
            "07d0674c66bf6b66c006e0cd42a639112d8b3bba73071f854ab73a6f4fc18eb3",
            "d75ad1a70cb4b5bf9fb5fa79b163149297a322adbde1b79bf6c347a06f95fea1",
        ),
    )

"""Tables read part by part give the same folds, in files without a name once they are large."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data import growing, record_sample
from blindsum.platform.data.computing import Computing, computing_in
from blindsum.platform.data.files import parts
from blindsum.platform.data.growing import GrowingArray
from blindsum.platform.data.ragged import Bits, TaskLabels
from blindsum.platform.data.record_digests import record_digests
from blindsum.platform.data.record_sample import RecordSample
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData, load_data, load_molecules, table_fingerprints
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection

RECORDS = 230
FOLDS = {"kind": "hash", "column": "patient", "key": "integer", "salt": "s", "test_fraction": 0.3}
CONTRACT = DataSection.model_validate(
    {
        "features": {"kind": "columns", "columns": {"age": {"scale": 9.0}, "dose": {}}},
        "tasks": {"ill": {}, "level": {"kind": "regression", "qualifier": "side"}},
        "folds": FOLDS,
        "unlabelled": "drop",
    }
)


def table() -> pa.Table:
    random = np.random.default_rng(0)
    levels = random.normal(size=RECORDS)
    return pa.table(
        {
            "patient": np.arange(RECORDS),
            "age": random.integers(20, 90, RECORDS),
            "dose": random.normal(size=RECORDS).astype(np.float32),
            "other": ["not used"] * RECORDS,
            "ill": pa.array([None if i % 3 else i % 2 for i in range(RECORDS)], pa.int8()),
            "level": pa.array(levels, mask=random.random(RECORDS) < 0.5),
            "side": pa.array([[None, "<", "="][i % 3] for i in range(RECORDS)]),
        }
    )


def written(content: pa.Table, folder: Path, kind: str) -> Path:
    path = folder / f"table.{kind}"
    match kind:
        case "parquet":
            pq.write_table(content, path, row_group_size=70)
        case "feather":
            pyarrow.feather.write_feather(content, path, chunksize=90)
        case "arrows":
            with pa.ipc.new_stream(path, content.schema) as stream:
                stream.write_table(content, 50)
        case "csv":
            pa.csv.write_csv(content, path)
        case _:
            path.mkdir()
            for i, (start, end) in enumerate(pairwise([0, 100, 105, RECORDS])):
                pq.write_table(content.slice(start, end - start), path / f"{i}.parquet")
    return path


def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 0)
    monkeypatch.setattr(parts, "LEAST_RECORDS", 32)
    monkeypatch.setattr(growing, "IN_MEMORY", 500)
    monkeypatch.setattr(GrowingArray.__init__, "__defaults__", (500,))


def equal(one: Fold, other: Fold) -> None:
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrows", "csv", "folder"])
def test_a_table_in_parts_gives_the_folds_of_the_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rejects = written(table(), tmp_path, kind), tmp_path / "rejected.csv"
    whole = load_data(path, CONTRACT, rejects)
    listed = rejects.read_text()
    in_small_parts(monkeypatch)
    told = list[float]()
    means = Computing(told=told.append, scratch=tmp_path / "state")
    split = load_data(path, CONTRACT, rejects, computing=means)
    equal(split.train, whole.train)
    equal(split.test, whole.test)
    assert len(whole.train) + len(whole.test) < RECORDS, "some have no label at all"
    assert split.fingerprint == whole.fingerprint and split.dropped == whole.dropped
    assert len(whole.earlier) == 3 and split.earlier == ()
    assert split.concerns == whole.concerns and rejects.read_text() == listed
    assert split.records.at_most(2**64) == whole.records.at_most(2**64)
    assert isinstance(split.train.stored, np.memmap) and isinstance(whole.train.stored, np.ndarray)
    assert len(told) > 5 and set(told) == {0.0}, "a part's share would tell how many records"
    assert table_fingerprints(path, CONTRACT, rejects)[0] == whole.fingerprint
    assert not [*(tmp_path / "state").iterdir()], "the files have no names"


def test_molecules_in_parts_give_the_folds_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smiles = [f"{'C' * (1 + i % 20)}{'O' * (i // 20)}" for i in range(100)] + ["not a molecule"]
    pq.write_table(pa.table({"smiles": smiles, "hit": [0, 1] * 50 + [1]}), tmp_path / "t.parquet")
    contract = DataSection.model_validate(
        {
            "features": {"kind": "ecfp", "smiles": "smiles", "bits": 64},
            "tasks": {"hit": {}},
            "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
            "unparsable": "drop",
        }
    )

    def read() -> tuple[SiloData, Any]:
        at, means = (tmp_path / "t.parquet", contract, tmp_path / "r.csv"), computing_in(tmp_path)
        return load_data(*at, computing=means), load_molecules(*at, computing=means)

    whole, molecules = read()
    in_small_parts(monkeypatch)
    split, again = read()
    equal(split.train, whole.train)
    equal(split.test, whole.test)
    assert molecules == again and split.dropped == whole.dropped == 1
    assert (tmp_path / "r.csv").read_text().splitlines()[1].startswith("101,smiles,")


def test_faults_of_all_parts_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = table()
    ages = content["age"].to_pylist()
    ages[5] = ages[200] = None
    doses = content["dose"].to_pylist()
    doses[150] = float("inf")
    content = content.set_column(1, "age", pa.array(ages)).set_column(2, "dose", pa.array(doses))
    in_small_parts(monkeypatch)
    path = written(content, tmp_path, "parquet")
    with pytest.raises(DataError) as caught:
        load_data(path, CONTRACT, tmp_path / "r.csv")
    assert "columns 'age' and 'dose' have missing, NaN or infinite values" in str(caught.value)
    rows = [line.split(",")[:2] for line in (tmp_path / "r.csv").read_text().splitlines()]
    wrong = [row for row in rows if row[1] in {"age", "dose"}]
    assert wrong == [["6", "age"], ["151", "dose"], ["201", "age"]]


def test_a_full_disk_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    grown = GrowingArray(tmp_path / "file" / "state", 0)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"prepared records cannot be written in .*/file/state"):
        grown.append(np.zeros(3))


def test_the_file_of_large_records_can_be_opened_by_nobody_else(tmp_path: Path) -> None:
    grown = GrowingArray(tmp_path, 0)
    grown.append(np.arange(10.0))
    assert grown._file is not None
    status = os.fstat(grown._file.fileno())
    assert status.st_nlink == 0 and status.st_mode & 0o777 == 0o600 and status.st_uid == os.getuid()
    np.testing.assert_array_equal(grown.whole(), np.arange(10.0))


# -- records of different lengths ----------------------------------------------------------------

LABELS = st.lists(
    st.lists(st.sampled_from([np.nan, 0.0, 1.0, -2.5]), min_size=3, max_size=3), max_size=9
)


@given(LABELS, st.data())
@settings(deadline=None)
def test_labels_are_the_same_sparse(values: list[list[float]], data: st.DataObject) -> None:
    labels = np.zeros((len(values), 2, 3), np.float32)
    labels[:, 0] = np.array(values).reshape(-1, 3)
    labels[:, 1] = np.where(np.isnan(labels[:, 0]), 0, np.sign(labels[:, 0]))
    found = TaskLabels.of(labels)
    np.testing.assert_array_equal(found.dense(), labels)
    if values:
        rows = np.array(data.draw(st.lists(st.integers(0, len(values) - 1))), np.int64)
        np.testing.assert_array_equal(found[rows].dense(), labels[rows])
        np.testing.assert_array_equal(found[1:3].dense(), labels[1:3])
        chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=9)))
        chosen = chosen[: len(values)]
        np.testing.assert_array_equal(found[chosen].dense(), labels[chosen])
    for i, own in enumerate(found.by_task()):
        known = ~np.isnan(labels[:, 0, i])
        np.testing.assert_array_equal(own, labels[known, :, i])


def test_memory_is_that_of_what_is_there() -> None:
    labels = TaskLabels(np.full(1000, 2), [np.zeros(2000, np.int32)] * 3, 10_000)
    fold = Fold(Bits.at([np.array([1, 5])] * 1000, 2048), labels)
    for features, of in fold.batches():
        assert features.numel() * 4 + of.numel() * 4 <= 2**26


# -- samples --------------------------------------------------------------------------------------


def test_samples_of_two_silos_have_the_same_records_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sample(values: np.ndarray, most_bytes: int) -> RecordSample:
        found = RecordSample(most_bytes)
        for start in range(0, len(values), 500):
            part = pa.table({"x": values[start : start + 500]})
            found.add(part, record_digests(part)[0], np.zeros(part.num_rows, np.bool_))
        return found

    one, other = sample(np.arange(4000), 24 * 1000), sample(np.arange(2000, 6000), 24 * 2500)
    assert not one.is_whole and 250 < one.table.num_rows <= 1000 < other.table.num_rows <= 2500
    most = min(one.known.most, other.known.most)
    both = one.known.at_most(most) & other.known.at_most(most)
    share = len(both) / len(one.known.at_most(most))
    assert 0.4 < share < 0.6
    assert sample(np.arange(100), record_sample.MOST_BYTES).is_whole

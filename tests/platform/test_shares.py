"""A table that several processes share: the same folds, fingerprints and words as of one."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.actors.workers.parcels import packed, unpacked
from blindsum.actors.workers.reports import (
    parcel_of,
    parcel_of_sample,
    report_of,
    sample_of,
)
from blindsum.platform.data import rejected_rows, shares
from blindsum.platform.data.at_silo import TABLE_NOTES, TABLE_PROBLEM, write_at_silo
from blindsum.platform.data.computing import ALONE, Computing, Told
from blindsum.platform.data.files import parts
from blindsum.platform.data.files.parts import of_rows
from blindsum.platform.data.graphs import AtomsAndBonds
from blindsum.platform.data.reading import count_records, read_parts
from blindsum.platform.data.record_digests import Digests
from blindsum.platform.data.record_sample import RecordSample
from blindsum.platform.data.records import dense
from blindsum.platform.data.shares import Share, ShareReport, load_in_shares, read_share
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Task, Tasks
from tests.platform import test_graphs, test_images, test_texts
from tests.platform.test_large_tables import (
    CONTRACT,
    FOLDS,
    RECORDS,
    in_small_parts,
    table,
    written,
)

CLASSES = DataSection.model_validate(
    {
        "features": {"kind": "columns", "columns": {"age": {"scale": 9.0}, "dose": {}}},
        "target": {"column": "ill", "classes": [0, 1]},
        "folds": FOLDS,
    }
)
MOLECULES = DataSection.model_validate(
    {
        "features": {"kind": "ecfp", "smiles": "smiles", "bits": 64},
        "tasks": {"hit": {}},
        "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
        "unparsable": "drop",
    }
)


class Readers:
    """Processes that are none. Reports and errors cross as they do between processes."""

    def __init__(self, count: int, path: Path, contract: DataSection, own: Tasks) -> None:
        self.count, self.of, self.shares = count, (path, contract, own), list[Share]()

    def __len__(self) -> int:
        return self.count

    def read(self, shares: Sequence[range], records: int, told: Told) -> list[ShareReport | str]:
        return [self.report(rows, records) for rows in shares]

    def report(self, rows: range, records: int) -> ShareReport | str:
        try:
            share = read_share(*self.of, ALONE, rows, records)
        except DataError as error:
            return error.what
        self.shares.append(share)
        return report_of(unpacked(packed(parcel_of(share.report))))

    def samples(self, most: int) -> Iterator[RecordSample]:
        parcels = (parcel_of_sample(share.sample.at_most(most)) for share in self.shares)
        return (sample_of(unpacked(packed(one))) for one in parcels)

    def digests(self, begin: range) -> Iterator[list[Digests]]:
        return ([share.digests[i] for i in begin] for share in self.shares)


def shared(
    count: int, path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> tuple[SiloData, Readers]:
    readers = Readers(count, path, contract, own or {})
    return load_in_shares(readers, path, contract, rejects, own or {}, ALONE)[0], readers


def the_same(path: Path, contract: DataSection, count: int, folder: Path) -> Readers:
    """Read a table alone and in shares, and compare everything; returns the readers."""
    lists = [folder / name / "r.csv" for name in ("one", "shares")]
    alone = load_data(path, contract, lists[0])
    data, readers = shared(count, path, contract, lists[1])
    for fold in ("train", "test"):
        folds = [getattr(share, fold) for share in readers.shares]
        for stored in ("stored", "stored_labels"):
            put = np.concatenate([dense(getattr(one, stored)) for one in folds])
            np.testing.assert_array_equal(put, dense(getattr(getattr(alone, fold), stored)))
        assert len(getattr(data, fold)) == 0
    same = ("fingerprint", "earlier", "dropped", "concerns")
    assert [getattr(data, one) for one in same] == [getattr(alone, one) for one in same]
    assert data.records.at_most(2**64) == alone.records.at_most(2**64)
    listed = [one.read_text() if one.exists() else "" for one in lists]
    assert listed[0] == listed[1]
    return readers


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrows", "folder"])
@pytest.mark.parametrize("small", [False, True])
def test_shares_give_the_folds_and_fingerprints_of_the_whole(
    kind: str, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(table(), tmp_path, kind)
    if small:
        in_small_parts(monkeypatch)
    readers = the_same(path, CONTRACT, 3, tmp_path)
    assert [share.report.outline.train > 0 for share in readers.shares] == [True] * 3
    whole = load_data(path, CONTRACT, tmp_path / "r.csv")
    assert len(whole.earlier) == (0 if small else 3), "earlier fingerprints need one part"


def test_a_large_table_s_sample_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "MOST_BYTES", 1000)
    monkeypatch.setattr(RecordSample.__init__, "__defaults__", (1000,))
    readers = the_same(written(table(), tmp_path, "parquet"), CONTRACT, 3, tmp_path)
    kept = [share.sample for share in readers.shares]
    assert not any(sample.is_whole for sample in kept)
    whole = shared(3, tmp_path / "table.parquet", CONTRACT, tmp_path / "r.csv")[0].records
    assert 0 < len(whole.digests) < sum(len(sample.known.digests) for sample in kept)


def test_classes_and_more_workers_than_records(tmp_path: Path) -> None:
    content = table().slice(0, 6).drop(["ill"]).append_column("ill", pa.array([0, 1] * 3))
    path = written(content, tmp_path, "parquet")
    readers = the_same(path, CLASSES, 9, tmp_path)
    assert sum(share.report.outline.train == 0 for share in readers.shares) >= 3


def test_molecules_that_are_dropped_are_listed_by_their_rows(tmp_path: Path) -> None:
    smiles = [f"{'C' * (1 + i % 20)}{'O' * (i // 20)}" for i in range(100)]
    smiles[3] = smiles[60] = smiles[99] = "not a molecule"
    pq.write_table(pa.table({"smiles": smiles, "hit": [0, 1] * 50}), tmp_path / "t.parquet")
    the_same(tmp_path / "t.parquet", MOLECULES, 4, tmp_path)
    lines = (tmp_path / "shares" / "r.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["4", "61", "100"]


def test_pictures_are_shared_and_those_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    content = test_images.table().to_pylist()
    content[30]["image"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(content * 3), tmp_path / "t.parquet", row_group_size=25)
    readers = the_same(tmp_path / "t.parquet", test_images.contract(unparsable="drop"), 4, tmp_path)
    assert len(readers.shares) == 4
    lines = (tmp_path / "shares" / "r.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["31", "71", "111"]


def test_texts_are_shared(tmp_path: Path) -> None:
    notes = [f"note {i}" for i in range(8)]
    pq.write_table(pa.table({"note": notes, "ill": [0, 1] * 4}), tmp_path / "t.parquet")
    readers = the_same(tmp_path / "t.parquet", test_texts.contract(), 12, tmp_path)
    kinds = {type(share.train.stored) for share in readers.shares}
    assert len(kinds) == 1, "of shares without records too"


def test_molecular_graphs_are_shared(tmp_path: Path) -> None:
    smiles = ["C" * (i + 1) for i in range(8)]
    pq.write_table(pa.table({"smiles": smiles, "logd": np.arange(8.0)}), tmp_path / "t.parquet")
    readers = the_same(tmp_path / "t.parquet", test_graphs.contract(), 12, tmp_path)
    assert {type(share.train.stored) for share in readers.shares} == {AtomsAndBonds}


def test_a_list_of_several_shares_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejected_rows, "MOST_ROWS", 4)
    smiles = ["not a molecule" if i % 5 == 0 else "C" * (1 + i) for i in range(40)]
    pq.write_table(pa.table({"smiles": smiles, "hit": [0, 1] * 20}), tmp_path / "t.parquet")
    the_same(tmp_path / "t.parquet", MOLECULES, 3, tmp_path)
    assert (tmp_path / "shares" / "r.csv").read_text().endswith("and more, which are not listed\n")


def changed(column: str, rows: dict[int, Any], kind: Any = None) -> pa.Table:
    content = table()
    values = content[column].to_pylist()
    for row, value in rows.items():
        values[row] = value
    at = content.column_names.index(column)
    return content.set_column(at, column, pa.array(values, kind))


NOT_UTF8 = pa.array([b"<"] * (RECORDS - 1) + [b"\xff\xfe"], pa.binary()).view(pa.string())
FAULTS = {
    "gaps in two shares": changed("age", {5: None, 200: None}),
    "infinite": changed("dose", {150: float("inf")}, pa.float64()),
    "a label that is none": changed("ill", {3: 7, 221: 9}, pa.int8()),
    "no fold key": changed("patient", {120: None}),
    "text that is not UTF-8": table().set_column(6, "side", NOT_UTF8),
    "a qualifier that is none": changed("side", dict.fromkeys(range(77, 90), "about")),
    "a missing column": table().drop(["dose"]),
    "another type": changed("dose", {i: str(i) for i in range(RECORDS)}, pa.string()),
    "no records": table().slice(0, 0),
    "an empty fold": table().slice(0, 1),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["parquet", "feather", "folder"])
def test_a_fault_is_told_in_the_same_words(fault: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"table.{kind}"
    if kind == "folder":
        path.mkdir()
        pq.write_table(FAULTS[fault], path / "0.parquet")
    else:
        written(FAULTS[fault], tmp_path, kind)
    said = []
    for read in (load_data, lambda *a: shared(3, *a)[0]):
        place = tmp_path / "state" / "r.csv"
        for name in (TABLE_PROBLEM, TABLE_NOTES, "r.csv"):
            write_at_silo(place.with_name(name), "of an earlier table")
        with pytest.raises(DataError) as caught:
            read(path, CONTRACT, place)
        files = {one.name: one.read_text() for one in place.parent.iterdir()}
        said.append((str(caught.value), caught.value.at_silo, files))
    assert said[0] == said[1]
    assert "earlier table" not in str({k: v for k, v in said[1][2].items() if k != "r.csv"})


def test_a_fault_of_private_tasks_is_told_to_nobody_else(tmp_path: Path) -> None:
    path = written(changed("ill", {3: 7}, pa.int8()), tmp_path, "parquet")
    contract = CONTRACT.model_copy(update={"tasks": {"level": (CONTRACT.tasks or {})["level"]}})
    said = []
    for read in (load_data, lambda *a: shared(2, *a)[0]):
        with pytest.raises(DataError) as caught:
            read(path, contract, tmp_path / "state" / "r.csv", {"ill": Task()})
        files = {p.name: p.read_text() for p in (tmp_path / "state").iterdir()}
        said.append((str(caught.value), files))
    assert said[0] == said[1] and "'ill'" not in said[1][0]
    assert "ill" in said[1][1]["private_tasks_error.txt"]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.xlsx", "t.what"])
def test_a_file_that_cannot_be_read_is_told_in_the_same_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for write in (lambda: None, lambda: path.write_bytes(b"ARROW1 and then nothing of the kind")):
        write()
        said = []
        for read in (load_data, lambda *a: shared(2, *a)[0]):
            with pytest.raises(DataError) as caught:
                read(path, CONTRACT, tmp_path / "r.csv")
            said.append(str(caught.value))
        assert said[0] == said[1]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.sdf"])
def test_kinds_that_are_read_as_a_whole_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("age,dose\n1,2\n")
    with pytest.raises(DataError, match="several workers cannot share it. Write the table as Parq"):
        shared(2, tmp_path / name, CONTRACT, tmp_path / "r.csv")


def test_a_worker_that_sees_another_table_is_no_fault_of_the_table(tmp_path: Path) -> None:
    path = written(table(), tmp_path, "parquet")
    other = tmp_path / "other"
    other.mkdir()
    written(table().slice(0, 100), other, "parquet")
    readers = Readers(2, path, CONTRACT, {})
    answers = [readers.report(range(115), RECORDS)]
    readers.of = (other / "table.parquet", CONTRACT, {})
    answers.append(readers.report(range(115, RECORDS), RECORDS))
    readers.read = lambda *_: answers  # type: ignore[method-assign]
    with pytest.raises(DataError, match="is not the table that the silo's own process reads"):
        load_in_shares(readers, path, CONTRACT, tmp_path / "r.csv", {}, ALONE)


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrows", "folder"])
@given(st.data())
@settings(max_examples=20)
def test_any_rows_can_be_read(
    kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = table()
    path = written(content, tmp_path_factory.mktemp("table"), kind)
    assert count_records(path) == RECORDS
    start = data.draw(st.integers(0, RECORDS))
    stop = data.draw(st.integers(start, RECORDS))
    read = [*read_parts(path, rows=range(start, stop))]
    assert pa.concat_tables([one.table for one in read]).equals(content.slice(start, stop - start))
    assert read[0].first == start and read[-1].share == 1.0


def test_blocks_without_any_of_the_rows_are_not_read() -> None:
    batch = pa.record_batch({"x": list(range(10))})
    asked = list[int]()

    def block(number: int) -> tuple[int, Any]:
        def read() -> list[pa.RecordBatch]:
            asked.append(number)
            return [batch.slice(0, 4), batch.slice(4)]

        return 10, read

    found = pa.Table.from_batches(of_rows(map(block, range(5)), range(12, 21)))
    assert found["x"].to_pylist() == [*range(2, 10), 0] and asked == [1, 2]


def test_progress_and_reprs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 0)
    monkeypatch.setattr(parts, "LEAST_RECORDS", 32)
    told = list[float]()
    path = written(table(), tmp_path, "parquet")
    means = Computing(told=told.append)
    share = read_share(path, CONTRACT, {}, means, range(100, RECORDS), RECORDS)
    assert len(told) > 3 and set(told) == {0.0}, "parts have a known number of records"
    for one in (share, share.report, share.report.listed, share.report.outline):
        assert "private" in repr(one) and len(repr(one)) < 30
    assert asdict(share.report.outline)["train"] == len(share.train)

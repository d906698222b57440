"""What a silo keeps is found by content, used only if it is whole and its own, and bounded."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from blindsum.platform.data import molecule_results, molecule_work
from blindsum.platform.data.computing import Computing, computing_in
from blindsum.platform.data.fingerprint import earlier_fingerprints, kept_fingerprints
from blindsum.platform.data.kept_results import FOLDER, KeptResults, content_digest
from blindsum.platform.data.molecule_results import computed
from blindsum.platform.data.molecule_work import FoldKeys
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.job.data_section import DataSection

SCHEMA = pa.schema([("x", pa.int64())])
INPUTS = ["a test", "1"]
SMILES = ["CCO", "c1ccccc1O", "no molecule", "C1CCCCC1", "c1ccncc1C", "CCN", "CC(C)C", "C1CC1O"]


def table(*values: int) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64())})


def entries(state: Path) -> list[Path]:
    return sorted((state / FOLDER).glob("*.arrow"))


def kept(state: Path) -> KeptResults:
    """As another process of the silo would see it."""
    return KeptResults(state)


def test_what_was_kept_is_found_by_its_inputs_alone(tmp_path: Path) -> None:
    kept(tmp_path).write(INPUTS, table(1, 2))
    assert kept(tmp_path).read(INPUTS, SCHEMA, 2) == table(1, 2)
    for other in (["a test", "2"], ["a test"], ["a test1"], []):
        assert kept(tmp_path).read(other, SCHEMA, 2) is None
    (entry,) = entries(tmp_path)
    assert entry.stat().st_mode & 0o777 == 0o600
    assert entry.parent.stat().st_mode & 0o777 == 0o700
    assert (entry.parent / "key").stat().st_mode & 0o777 == 0o600


def test_names_of_entries_confirm_no_guess(tmp_path: Path) -> None:
    """Two silos with one table have entries of other names: each has its own key."""
    for silo in ("alder", "birch"):
        kept(tmp_path / silo).write(INPUTS, table(1))
    (first,), (second,) = entries(tmp_path / "alder"), entries(tmp_path / "birch")
    assert first.name != second.name


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def replaced_by_another_silos(path: Path) -> None:
    other = path.parents[1] / "other"
    kept(other).write(INPUTS, table(7, 7))
    path.write_bytes(entries(other)[0].read_bytes())


def exchanged_with_another_entry(path: Path) -> None:
    kept(path.parents[1]).write(["another"], table(7, 7))
    (other,) = [one for one in entries(path.parents[1]) if one != path]
    path.write_bytes(other.read_bytes())


def linked(path: Path) -> None:
    whole = path.with_name("elsewhere")
    path.rename(whole)
    path.symlink_to(whole)


FAULTS: dict[str, Callable[[Path], object]] = {
    "damaged": flip,
    "truncated": cut,
    "empty": lambda path: path.write_bytes(b""),
    "of another silo": replaced_by_another_silos,
    "of other inputs": exchanged_with_another_entry,
    "readable by all": lambda path: path.chmod(0o644),
    "writable by a group": lambda path: path.chmod(0o660),
    "a link": linked,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_entry_that_is_not_whole_and_its_own_is_not_used(tmp_path: Path, fault: str) -> None:
    kept(tmp_path).write(INPUTS, table(1, 2))
    (entry,) = entries(tmp_path)
    FAULTS[fault](entry)
    assert kept(tmp_path).read(INPUTS, SCHEMA, 2) is None
    assert not os.path.lexists(entry), "it is removed, and so computed once more only"
    kept(tmp_path).write(INPUTS, table(1, 2))
    assert kept(tmp_path).read(INPUTS, SCHEMA, 2) == table(1, 2)


def test_an_entry_of_another_shape_is_not_used(tmp_path: Path) -> None:
    for schema, rows in ((SCHEMA, 3), (pa.schema([("y", pa.int64())]), 2)):
        kept(tmp_path).write(INPUTS, table(1, 2))
        assert kept(tmp_path).read(INPUTS, schema, rows) is None


@pytest.mark.parametrize("fault", ["readable by all", "truncated", "empty", "a link"])
def test_a_key_that_others_could_know_opens_nothing(tmp_path: Path, fault: str) -> None:
    kept(tmp_path).write(INPUTS, table(1, 2))
    key = tmp_path / FOLDER / "key"
    before = key.read_bytes()
    FAULTS[fault](key)
    assert kept(tmp_path).read(INPUTS, SCHEMA, 2) is None
    kept(tmp_path).write(INPUTS, table(1, 2))
    assert kept(tmp_path).read(INPUTS, SCHEMA, 2) == table(1, 2)
    assert key.read_bytes() != before and key.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_could_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o777)
    kept(tmp_path).write(INPUTS, table(1))
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_none_costs_nothing_but_the_computation(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    kept(tmp_path).write(INPUTS, table(1))
    assert kept(tmp_path).read(INPUTS, SCHEMA, 1) is None
    assert (tmp_path / FOLDER).read_text() == "a file"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "silo").mkdir()
    (tmp_path / "silo" / FOLDER).symlink_to(elsewhere)
    kept(tmp_path / "silo").write(INPUTS, table(1))
    assert list(elsewhere.iterdir()) == []


def test_entries_take_a_bounded_number_of_bytes_and_the_oldest_go_first(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**62, (4, 1000))
    KeptResults(tmp_path).write(["0"], table(*values[0]))
    size = entries(tmp_path)[0].stat().st_size
    small = KeptResults(tmp_path, most_bytes=3 * size + 100)
    small.write(["1"], table(*values[1]))
    small.write(["2"], table(*values[2]))
    for age, name in enumerate("120"):  # used in the order 0, 2, 1
        os.utime(small._path(small._opened(), [name]), (1e9 - age, 1e9 - age))
    assert small.read(["0"], SCHEMA, 1000) is not None  # used just now
    small.write(["3"], table(*values[3]))
    there = [name for name in "0123" if small.read([name], SCHEMA, 1000) is not None]
    assert there == ["0", "1", "3"]
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 3 * size + 100
    KeptResults(tmp_path, most_bytes=size // 2).write(["4"], table(*values[0]))
    assert small.read(["4"], SCHEMA, 1000) is None, "larger than all entries together may be"


def test_all_can_be_removed_but_nothing_behind_a_link(tmp_path: Path) -> None:
    one = kept(tmp_path / "silo")
    one.write(INPUTS, table(1))
    assert one.held() == (1, entries(tmp_path / "silo")[0].stat().st_size)
    one.clear()
    assert one.held() == (0, 0) and list(one.folder.iterdir()) == []
    assert one.read(INPUTS, SCHEMA, 1) is None
    one.write(INPUTS, table(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FOLDER).symlink_to(one.folder)
    kept(tmp_path / "other").clear()
    assert one.held()[0] == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    kept(tmp_path).write(INPUTS, table(1))
    left, fresh = (tmp_path / FOLDER / f"{name}.partial" for name in ("left", "fresh"))
    for path in (left, fresh):
        path.touch(mode=0o600)
    os.utime(left, (1e9, 1e9))
    kept(tmp_path).write(["another"], table(1))
    assert not left.exists() and fresh.exists()


def test_many_processes_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = (
        "import sys, pyarrow as pa\nfrom pathlib import Path\n"
        "from blindsum.platform.data.kept_results import KeptResults\n"
        "sys.stdin.readline()\n"
        "for i in range(20):\n"
        "    kept = KeptResults(Path(sys.argv[1]))\n"
        "    kept.write([str(i)], pa.table({'x': pa.array([i], pa.int64())}))\n"
        "    found = kept.read([str(i)], pa.schema([('x', pa.int64())]), 1)\n"
        "    assert found['x'].to_pylist() == [i]\n"
    )
    path = os.pathsep.join(sys.path)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        for _ in range(3)
    ]
    for one in running:  # all of them begin now
        assert one.stdin
        one.stdin.write(b"\n")
        one.stdin.flush()
    assert [one.wait(60) for one in running] == [0, 0, 0]
    assert len(entries(tmp_path)) == 20
    assert not list((tmp_path / FOLDER).glob("*.partial"))


def test_a_digest_is_of_names_types_and_values() -> None:
    one = pa.table({"x": [1, 2]})
    assert content_digest(one) == content_digest(pa.table({"x": [1, 2]}))
    chunked = pa.table({"x": pa.chunked_array([[1], [2]])})
    assert content_digest(one) == content_digest(chunked)
    others = ({"x": [2, 1]}, {"y": [1, 2]}, {"x": [1.0, 2.0]}, {"x": [1, 2, 2]}, {"x": [1, None]})
    assert content_digest(one) not in {content_digest(pa.table(other)) for other in others}


def test_fingerprints_are_kept_and_the_same(tmp_path: Path) -> None:
    records = pa.table({"x": [3.5, 1.0], "name": ["b", "a"]})
    means = computing_in(tmp_path)
    assert kept_fingerprints(records, means) == earlier_fingerprints(records)
    (entry,) = entries(tmp_path)
    assert kept_fingerprints(records, means) == earlier_fingerprints(records)
    assert entries(tmp_path) == [entry]
    changed = pa.table({"x": [3.5, 1.5], "name": ["b", "a"]})
    of_changed = earlier_fingerprints(changed)
    assert kept_fingerprints(changed, means) == of_changed != earlier_fingerprints(records)


# -- a silo's table ----------------------------------------------------------------------------


def contract(features: dict[str, object], salt: str = "s", folds: str = "scaffold") -> DataSection:
    return DataSection.model_validate(
        {
            "features": features,
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": folds, "salt": salt, "test_fraction": 0.4},
            "unparsable": "drop",
        }
    )


ECFP = {"kind": "ecfp", "bits": 1024}
DESCRIPTORS = {"kind": "descriptors", "descriptors": ["MolLogP", "TPSA", "qed"]}


def same(one: Fold, other: Fold) -> None:
    assert type(one.stored) is type(other.stored)
    np.testing.assert_array_equal(dense(one.stored), dense(other.stored))
    assert dense(one.stored).dtype == dense(other.stored).dtype == np.float32
    np.testing.assert_array_equal(one.labels, other.labels)


def write(path: Path, smiles: list[str]) -> Path:
    pyarrow.parquet.write_table(
        pa.table({"smiles": smiles, "y": [0, 1] * (len(smiles) // 2)}), path
    )
    return path


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The columns that were really computed."""
    made: list[str] = []

    class Counted(molecule_results._Computation):
        def __init__(self, work, texts, computing) -> None:  # type: ignore[no-untyped-def]
            super().__init__(work, texts, computing)
            made.append(" ".join(work.schema.names))

    monkeypatch.setattr(molecule_results, "_Computation", Counted)
    return made


@pytest.mark.parametrize("features", [ECFP, DESCRIPTORS])
@pytest.mark.parametrize("folds", ["scaffold", "random"])
def test_kept_features_and_folds_are_those_that_were_computed(
    tmp_path: Path,
    features: dict[str, object],
    folds: str,
    computations: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "t.parquet", SMILES)

    def loaded(means: Computing, salt: str = "s") -> SiloData:
        return load_data(path, contract(features, salt, folds), tmp_path / "r.txt", {}, means)

    # Folds hash what was computed and kept, and read no molecule again.
    monkeypatch.setattr("blindsum.platform.data.record_keys._canonical", None)
    monkeypatch.setattr("blindsum.platform.data.split.scaffold_key", None)
    plain = loaded(Computing())
    first, again = loaded(computing_in(tmp_path)), loaded(computing_in(tmp_path))
    values = "positions" if features is ECFP else "values"
    assert computations == [f"reason {values} key"] * 2
    for data in (first, again):
        same(data.train, plain.train)
        same(data.test, plain.test)
        assert (data.fingerprint, data.earlier) == (plain.fingerprint, plain.earlier)
        assert data.dropped == plain.dropped == 1
    loaded(computing_in(tmp_path), salt="another")
    assert len(computations) == 2, "keys do not depend on the salt"


def test_only_what_changed_is_computed_again(tmp_path: Path, computations: list[str]) -> None:
    path = write(tmp_path / "t.parquet", SMILES)
    means = computing_in(tmp_path)
    for section in (ECFP, {**ECFP, "bits": 512}, DESCRIPTORS, ECFP):
        load_data(path, contract(section), tmp_path / "r.txt", {}, means)
    assert computations == ["reason positions key", "reason positions", "reason values"]
    load_data(path, contract({**DESCRIPTORS, "scaling": "druglike-1"}), tmp_path / "r", {}, means)
    assert computations[3:] == ["reason values"], "other constants are other features"
    changed = write(tmp_path / "u.parquet", [*SMILES[:-1], "C1CC1N"])
    load_data(changed, contract(ECFP), tmp_path / "r.txt", {}, means)
    assert computations[4:] == ["reason positions key"]


def test_each_kind_of_folds_has_keys_of_its_own(tmp_path: Path, computations: list[str]) -> None:
    path, means = write(tmp_path / "t.parquet", SMILES), computing_in(tmp_path)
    for folds in ("scaffold", "random", "scaffold", "random"):
        load_data(path, contract(ECFP, folds=folds), tmp_path / "r.txt", {}, means)
    assert computations == ["reason positions key", "key"]


def test_scaffolds_that_an_earlier_version_kept_are_not_read(tmp_path: Path) -> None:
    """It called them Scaffolds, without settings."""
    texts, part = pa.table({"text": pa.chunked_array([SMILES])}), FoldKeys("scaffold")
    earlier = ["Scaffolds", "", *part.inputs(content_digest(texts))[2:]]
    assert earlier[2:] == [molecule_work.RDKIT, str(molecule_work.WORK), content_digest(texts)]
    kept(tmp_path).write(earlier, pa.table({"key": ["wrong"] * len(SMILES)}, part.schema))
    found = computed([part], texts["text"], computing_in(tmp_path))
    assert found == computed([part], texts["text"], Computing())
    assert len(entries(tmp_path)) == 2


def test_another_rdkit_computes_again(
    tmp_path: Path, computations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, means = write(tmp_path / "t.parquet", SMILES), computing_in(tmp_path)
    load_data(path, contract(ECFP), tmp_path / "r.txt", {}, means)
    for what in ("RDKIT", "WORK"):
        monkeypatch.setattr(f"blindsum.platform.data.molecule_work.{what}", "another")
        load_data(path, contract(ECFP), tmp_path / "r.txt", {}, means)
    assert len(computations) == 3


def test_a_damaged_entry_of_a_table_is_computed_again(
    tmp_path: Path, computations: list[str]
) -> None:
    path, means = write(tmp_path / "t.parquet", SMILES), computing_in(tmp_path)
    first = load_data(path, contract(ECFP), tmp_path / "r.txt", {}, means)
    for entry in entries(tmp_path):
        flip(entry)
    again = load_data(path, contract(ECFP), tmp_path / "r.txt", {}, means)
    same(again.train, first.train)
    assert again.fingerprint == first.fingerprint and len(computations) == 2

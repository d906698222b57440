"""Matrices that were prepared for SparseChem become a table that a job can use."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.platform.data.preparation import sparse_files
from blindsum.platform.data.preparation.sparse_files import read_array, read_matrix
from blindsum.platform.data.preparation.sparsechem import (
    LabelFiles,
    SparseChemFiles,
    read_sparsechem,
)
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import BlindsumError, DataError
from blindsum.platform.job.file import load_job
from blindsum.platform.job.private_tasks import read_private_tasks
from tests.fuzz.mutation import mutants

NAN = np.nan
ROWS, BITS = 6, 64
X = sparse.random_array((ROWS, BITS), density=0.2, rng=np.random.default_rng(0), format="csr")
X.data[:] = 1
CLASSES = np.array([[1, 0], [-1, 1], [0, 0], [1, -1], [0, 0], [-1, -1]])
NUMBERS = np.array([[5.0, NAN], [6, 0], [NAN, NAN], [NAN, 3], [NAN, NAN], [7, 1]])
SIDES = np.array([[1, 0], [0, 0], [0, 0], [0, -1], [0, 0], [0, 0]])
FOLDS = np.array([0, 1, 2, 0, 1, 2])


def stored(dense: np.ndarray[Any, Any]) -> sparse.csr_array:
    """Return a matrix without NaN that stores zeros."""
    rows, columns = np.nonzero(~np.isnan(dense.astype(float)))
    return sparse.coo_array((dense[rows, columns], (rows, columns)), shape=dense.shape).tocsr()


def example(folder: Path) -> dict[str, Path]:
    """Write the files of a data set, and return them by SparseChem's option."""
    folder.mkdir(exist_ok=True)
    numbers = stored(NUMBERS)
    for name, matrix in {
        "x": X,
        "y_class": sparse.csr_array(CLASSES),
        "y_regr": numbers,
        "y_censor": sparse.csr_array(SIDES),
    }.items():
        sparse.save_npz(folder / f"{name}.npz", matrix)
    np.save(folder / "folding.npy", FOLDS)
    (folder / "weights.csv").write_text(
        "task_id,training_weight,aggregation_weight,task_type,catalog_id\n"
        "1,0.25,1,OTHER,\n0,1.0,1,PANEL,ID0\n"
    )
    found = {name: folder / f"{name}.npz" for name in ("x", "y_class", "y_regr", "y_censor")}
    return found | {"folding": folder / "folding.npy", "weights_class": folder / "weights.csv"}


def command(files: dict[str, Path], *more: object) -> tuple[int, str, str]:
    """Return a command's status, stdout and stderr."""
    options = [part for k, v in files.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    done = CliRunner().invoke(app, ["import", "sparsechem", *options, *map(str, more)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_data_set_becomes_a_table_that_a_job_reads(tmp_path: Path) -> None:
    out = tmp_path / "imported"
    status, said, told = command(
        example(tmp_path / "sc"), "--out", out, "--silo", "alder", "--silo", "birch"
    )
    assert status == 0 and "4" in said and "2 compounds without a label" in told
    job = load_job(out / "job.yaml", [])
    assert [silo.name for silo in job.job.silos] == ["alder", "birch"]
    contract = job.job.data
    assert list(contract.tasks or {}) == ["ID0"]
    own = read_private_tasks(out / "alder" / "private_tasks.yaml", {"ID0"})
    assert {name: task.weight for name, task in own.items()} == {
        "class_1": 0.25,
        "value_0": 1.0,
        "value_1": 1.0,
    }
    data = load_data(out / "alder" / "records.parquet", contract, tmp_path / "rejected.csv", own)
    labelled = [0, 1, 3, 5]
    train = [i for i in labelled if FOLDS[i] != 0]
    assert np.array_equal(data.train.features, X.toarray()[train])
    assert np.array_equal(data.test.features, X.toarray()[[0, 3]])
    values = np.concatenate([CLASSES, NUMBERS], axis=1).astype(np.float32)
    values[:, :2][CLASSES == 0] = np.nan
    values[:, :2] = (values[:, :2] + 1) / 2
    for i in (0, 1):
        task = own[f"value_{i}"]
        values[:, 2 + i] = (values[:, 2 + i] - task.center) / task.scale
    found = data.train.labels
    assert np.allclose(found[:, 0], values[train], equal_nan=True, atol=1e-6)
    assert np.allclose(data.test.labels[:, 0], values[[0, 3]], equal_nan=True, atol=1e-6)
    assert data.test.labels[:, 1].tolist() == [[0, 0, 1, 0], [0, 0, 0, -1]]
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.rglob("*"))


def test_folds_and_tasks_can_be_left_out_and_all_tasks_be_shared(tmp_path: Path) -> None:
    files, out = example(tmp_path / "sc"), tmp_path / "imported"
    (tmp_path / "sc" / "weights.csv").write_text("task_ids,weight\n0,0\n1,1\n")
    _, _, told = command(files, "--out", out, "--fold-te", 2, "--fold-va", 1, "--shared")
    assert "left out: 1 tasks of class with a training_weight of 0" in told.replace("\n", " ")
    assert "left out: 2 compounds of fold 2" in told
    section = yaml.safe_load((out / "job.yaml").read_text())["data"]
    assert section["folds"]["held_out"] == 1
    assert list(section["tasks"]) == ["class_1", "value_0", "value_1"]
    assert not (out / "silo-a" / "private_tasks.yaml").exists()
    table = pq.read_table(out / "silo-a" / "records.parquet")
    assert table["fold"].to_pylist() == [0, 1, 0]
    assert table["value_0"].to_pylist() == [5.0, 6.0, None]
    assert table["value_0_side"].to_pylist() == [">", "=", None]
    assert table["class_1"].to_pylist() == [None, 1, 0]


def test_a_catalogue_makes_columns_that_this_silo_has_not(tmp_path: Path) -> None:
    files, out, names = example(tmp_path / "sc"), tmp_path / "imported", tmp_path / "names.txt"
    names.write_text("ID7\nID0\n")
    assert command(files, "--out", out, "--catalogue", names)[0] == 0
    table = pq.read_table(out / "silo-a" / "records.parquet")
    assert table["ID7"].null_count == table.num_rows and table["ID0"].null_count < table.num_rows
    names.write_text("ID7\n")
    with pytest.raises(DataError, match="its catalog_id is not among those of --catalogue"):
        command(files, "--out", tmp_path / "again", "--catalogue", names)
    names.write_text("ID7\nID7\n")
    with pytest.raises(DataError, match="a name twice"):
        command(files, "--out", tmp_path / "again", "--catalogue", names)


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
    files = example(tmp_path / "sc")
    np.save(files["folding"], np.array([0.5] * 3))
    sparse.save_npz(files["y_class"], sparse.csr_array(CLASSES * 2))
    sparse.save_npz(files["y_censor"], sparse.csr_array(SIDES[:, :1]))
    files["weights_class"].write_text("task_id,training_weight\n0,1\n0,7\n9,x\n")
    with pytest.raises(DataError) as caught:
        command(files, "--out", tmp_path / "imported")
    said = str(caught.value)
    for fault in (
        "folding.npy has the shape 3, expected a fold for each of 6 rows",
        "y_class.npz has classes other than -1 and 1",
        "y_censor.npz has another shape than the numbers",
        "weights.csv, rows 2, 3: task_id is not one of 0 to 1, or there twice",
    ):
        assert fault in said
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda f: np.save(f["folding"], np.array([0, 1, 2, 0, 1, -1])), "no whole numbers"),
        (lambda f: np.save(f["folding"], np.array([0, 1, 2, 0, 1, NAN])), "no whole numbers"),
        (lambda f: sparse.save_npz(f["x"], X[:, :63]), "has 63 columns, expected 64 to 65,536"),
        (
            lambda f: sparse.save_npz(f["y_class"], sparse.csr_array(CLASSES[:3])),
            "has 3 rows, expected those of X: 6",
        ),
        (
            lambda f: sparse.save_npz(f["y_regr"], stored(NUMBERS) * np.inf),
            "numbers that are NaN or infinite",
        ),
        (
            lambda f: sparse.save_npz(f["y_censor"], sparse.csr_array(np.ones((6, 2)))),
            "has sides where there are no numbers",
        ),
        (
            lambda f: sparse.save_npz(f["y_censor"], sparse.csr_array(SIDES * 3)),
            "has sides other than -1, 0 and 1",
        ),
        (lambda f: f["weights_class"].write_text("a,b\n1,2\n"), "columns missing or there twice"),
        (
            lambda f: f["weights_class"].write_text("task_id,training_weight\n0,1\n"),
            "has 1 tasks, expected 2",
        ),
    ],
)
def test_wrong_files_are_refused_by_name(
    change: Callable[[dict[str, Path]], Any], fault: str, tmp_path: Path
) -> None:
    files = example(tmp_path / "sc")
    with np.errstate(invalid="ignore"):
        change(files)
    with pytest.raises(DataError, match=fault):
        command(files, "--out", tmp_path / "imported")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (target,)

    as_array = np.array(Runs(), object)
    np.save(tmp_path / "x.npy", as_array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", format=as_array, allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Runs()))
    for read in (read_matrix, read_array):
        for name in ("x.npy", "bare.npy"):
            with pytest.raises(DataError, match=r"needs a pickle.*save_npz"):
                read(tmp_path / name)
    with pytest.raises(DataError, match="needs a pickle"):
        read_matrix(tmp_path / "x.npz")
    assert not target.exists()


def test_positions_outside_a_matrix_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    good: dict[str, Any] = {
        "format": np.array(b"csr"),
        "shape": np.array([2, 3]),
        "data": np.array([1.0, 2.0]),
        "indices": np.array([0, 2]),
        "indptr": np.array([0, 1, 2]),
    }

    def read(**changed: Any) -> Any:
        np.savez(path, **(good | {k: np.array(v) for k, v in changed.items()}))
        return read_matrix(path)

    assert read().toarray().tolist() == [[1, 0, 0], [0, 0, 2]]
    for changed, fault in (
        ({"indices": [0, 3]}, "a position is outside"),
        ({"indices": [0, -1]}, "a position is outside"),
        ({"indices": [0.0, 1.0]}, "not one position for each value"),
        ({"indices": [0]}, "not one position for each value"),
        ({"indptr": [0, 2, 1]}, "indptr does not ascend"),
        ({"indptr": [0, 1, 3]}, "indptr does not ascend"),
        ({"indptr": [0, 2]}, "indptr does not fit"),
        ({"shape": [2, 10**12]}, "has not two dimensions of 1 to"),
        ({"shape": [2]}, "has not two dimensions of 1 to"),
        ({"format": b"bsr"}, "no sparse matrix of kind"),
        ({"data": ["a", "b"]}, "something else than numbers"),
        ({"indptr": [0, 2, 2], "indices": [1, 1]}, "several values at one place"),
    ):
        with pytest.raises(DataError, match=fault):
            read(**changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_files, "MOST_BYTES", 100)
        with pytest.raises(DataError, match="GB of arrays"):
            read()


MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 7)),
    elements=st.sampled_from([0.0, 1.0, -1.0, 2.5]),
)


@given(MATRICES, st.sampled_from(["csr", "csc", "coo"]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_matrices_of_every_kind_are_read_as_scipy_reads_them(
    tmp_path_factory: pytest.TempPathFactory, dense: np.ndarray[Any, Any], kind: str, npy: bool
) -> None:
    path = tmp_path_factory.mktemp("m") / ("m.npy" if npy else "m.npz")
    if npy:
        np.save(path, dense)
    else:
        sparse.save_npz(path, sparse.coo_array(dense).asformat(kind))
    found = read_matrix(path)
    assert np.array_equal(found.toarray(), dense) and found.has_sorted_indices


@given(st.integers(64, 200), st.data())
@settings(deadline=None, max_examples=25)
def test_folded_bits_are_those_of_the_remainders(
    tmp_path_factory: pytest.TempPathFactory, bits: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("x")
    files = example(folder)
    ones = [data.draw(st.sets(st.integers(0, 999), max_size=12)) for _ in range(ROWS)]
    x = np.zeros((ROWS, 1000), np.int8)
    for row, there in enumerate(ones):
        x[row, list(there)] = 3
    sparse.save_npz(files["x"], sparse.csr_array(x))
    found = read_sparsechem(
        SparseChemFiles(
            x=files["x"],
            classes=LabelFiles(files["y_class"]),
            folding=files["folding"],
            bits=bits,
        )
    )
    (table,) = found.parts()
    expected = [sorted({at % bits for at in ones[i]}) for i in (0, 1, 3, 5)]
    assert table["fingerprint"].to_pylist() == expected and found.bits == bits


@pytest.mark.parametrize("name", ["x", "y_regr", "y_censor", "folding", "weights_class"])
def test_damaged_files_are_refused_or_read_but_never_crash(name: str, tmp_path: Path) -> None:
    files = example(tmp_path)
    good, refused = files[name].read_bytes(), 0
    for content in mutants(good, 60):
        files[name].write_bytes(content)
        try:
            read_sparsechem(
                SparseChemFiles(
                    x=files["x"],
                    classes=LabelFiles(files["y_class"], files["weights_class"]),
                    numbers=LabelFiles(files["y_regr"], None, files["y_censor"]),
                    folding=files["folding"],
                )
            )
        except BlindsumError as error:
            refused += 1
            assert error.what
    assert refused, "some of them are damaged beyond reading"

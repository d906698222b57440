"""Reads sparse matrices from NumPy's and SciPy's files, which may come from anybody.

Nothing is unpickled: a pickle runs code of its author's choice. Positions are checked before SciPy
computes with them, because its compiled code takes them as they are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from blindsum.platform.errors import DataError

MOST_BYTES = 32 * 2**30
"""The largest size of a file's arrays, unpacked."""

MOST_ROWS = 10**8
"""Most rows and columns: a damaged file may claim any number of empty ones."""

_UNPICKLED = (
    'If you made the file yourself: python -c "import numpy, scipy.sparse; scipy.sparse.save_npz('
    "'X.npz', numpy.load('X.npy', allow_pickle=True).item())\", and name X.npz."
)
_NEEDED = {
    "csr": ("shape", "data", "indices", "indptr"),
    "csc": ("shape", "data", "indices", "indptr"),
    "coo": ("shape", "data", "row", "col"),
}
Array = npt.NDArray[Any]


def read_matrix(path: Path, zeros: bool = False) -> sparse.csr_array:
    """Read a matrix: .npz as SciPy's `save_npz` writes it, or .npy of two dimensions.

    Args:
        zeros: whether zeros of a dense matrix are values; NaN is missing in any case.

    Returns:
        the matrix, with ascending columns in each row; zeros that a sparse file stores stay.

    Raises:
        DataError: the file cannot be read, needs a pickle, or does not hold one sound matrix with
            at most one value at a place.
    """
    match path.suffix.lower():
        case ".npz":
            found = _sparse(path)
        case ".npy":
            found = _from_dense(read_array(path), path, zeros)
        case _:
            raise DataError(
                f"{path.name} is no file of a matrix that is read here",
                "Write it with scipy.sparse.save_npz, and name that .npz file.",
            )
    found.sort_indices()
    again = np.diff(found.indices) == 0
    starts = found.indptr[1:-1]
    again[starts[(starts > 0) & (starts <= len(again))] - 1] = False  # of another row
    if again.any():
        raise DataError(
            f"{path.name} has several values at one place", "Write each value of a row once."
        )
    return found


def read_array(path: Path) -> Array:
    """Read an array of numbers from a .npy file.

    Raises:
        DataError: the file cannot be read, needs a pickle, or does not hold numbers.
    """
    with _reading(path):
        _require_size(path.stat().st_size, path)
        found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        found.close()
        raise DataError(f"{path.name} is an archive, expected one array", "Name a .npy file.")
    return _numbers(found, path)


def _sparse(path: Path) -> sparse.csr_array:
    with _reading(path):
        with zipfile.ZipFile(path) as archive:
            _require_size(sum(one.file_size for one in archive.infolist()), path)
        with np.load(path, allow_pickle=False) as file:
            kind = _text(file["format"]) if "format" in file else ""
            if kind not in _NEEDED or not set(_NEEDED[kind]) <= set(file.files):
                raise DataError(
                    f"{path.name} is no sparse matrix of kind csr, csc or coo",
                    "Write it with scipy.sparse.save_npz(path, matrix.tocsr()).",
                )
            parts = {name: _numbers(file[name], path) for name in _NEEDED[kind]}
    rows, columns = _shape(parts["shape"], path)
    try:
        return _matrix(kind, parts, rows, columns)
    except _Unsound as unsound:
        raise DataError(
            f"{path.name} is not a sound matrix: {unsound}", "Write it again with save_npz."
        ) from None


class _Unsound(Exception):
    """Arrays that do not make a matrix."""


def _matrix(kind: str, parts: Mapping[str, Array], rows: int, columns: int) -> sparse.csr_array:
    data, shape = parts["data"], (rows, columns)
    if data.ndim != 1:
        raise _Unsound("its values are no list")
    if kind == "coo":
        row = _positions(parts["row"], rows, len(data))
        column = _positions(parts["col"], columns, len(data))
        order = np.lexsort((column, row))
        indptr = np.append(0, np.cumsum(np.bincount(row, minlength=rows)))
        return sparse.csr_array((data[order], column[order], indptr), shape=shape)
    outer, inner = (rows, columns) if kind == "csr" else (columns, rows)
    ends = parts["indptr"]
    if ends.ndim != 1 or len(ends) != outer + 1 or ends.dtype.kind not in "iu":
        raise _Unsound("indptr does not fit its shape")
    ends = ends.astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(data) or (np.diff(ends) < 0).any():
        raise _Unsound("indptr does not ascend from 0 to the number of values")
    indices = _positions(parts["indices"], inner, len(data))
    if kind == "csr":
        return sparse.csr_array((data, indices, ends), shape=shape)
    return sparse.csc_array((data, indices, ends), shape=shape).tocsr()


def _positions(found: Array, most: int, count: int) -> npt.NDArray[np.int64]:
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise _Unsound("there is not one position for each value")
    if count and (int(found.min()) < 0 or int(found.max()) >= most):
        raise _Unsound("a position is outside its shape")
    return found.astype(np.int64)


def _shape(found: Array, path: Path) -> tuple[int, int]:
    sizes = found.tolist() if found.dtype.kind in "iu" and found.shape == (2,) else []
    if len(sizes) != 2 or not all(0 < size <= MOST_ROWS for size in sizes):
        raise DataError(
            f"{path.name} has not two dimensions of 1 to {MOST_ROWS:,}",
            "Write a matrix with a row for each compound.",
        )
    return int(sizes[0]), int(sizes[1])


def _from_dense(found: Array, path: Path, zeros: bool) -> sparse.csr_array:
    if found.ndim != 2:
        raise DataError(
            f"{path.name} has {found.ndim} dimensions, expected 2: rows are compounds",
            "Name the file of a matrix.",
        )
    rows, columns = _shape(np.array(found.shape), path)
    kept = np.ones(found.shape, np.bool_) if zeros else found != 0
    if found.dtype.kind == "f":
        kept &= ~np.isnan(found)
    row, column = np.nonzero(kept)
    indptr = np.append(0, np.cumsum(np.bincount(row, minlength=rows)))
    return sparse.csr_array((found[row, column], column, indptr), shape=(rows, columns))


def _numbers(found: Array, path: Path) -> Array:
    if found.dtype.kind not in "biuf":
        raise DataError(f"{path.name} holds something else than numbers", "Write numbers.")
    return found


def _text(found: Array) -> str:
    one = found.item() if found.size == 1 else ""
    return one.decode("ascii", "replace") if isinstance(one, bytes) else str(one)


def _require_size(size: int, path: Path) -> None:
    if size > MOST_BYTES:
        raise DataError(
            f"{path.name} has more than {MOST_BYTES // 2**30} GB of arrays",
            "Import fewer compounds at a time.",
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise what goes wrong while a file is read as a DataError that quotes nothing of it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "Correct its name.") from None
    except Exception as error:  # noqa: BLE001 - NumPy, zipfile and zlib raise many kinds
        if isinstance(error, ValueError) and _is_pickled(path):
            raise DataError(
                f"{path.name} needs a pickle, which could run anything: it is not read", _UNPICKLED
            ) from None
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(
            f"{path.name} cannot be read as NumPy's file ({reason})", "Check that it is complete."
        ) from None


def _is_pickled(path: Path) -> bool:
    """Return whether a file, or a part of it, holds objects: their type is O in its header."""
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                heads = [archive.open(name).read(256) for name in archive.namelist()]
        else:
            with path.open("rb") as file:
                heads = [file.read(256)]
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError):
        return False
    return any(b"'|O'" in head or head.startswith(b"\x80") for head in heads)

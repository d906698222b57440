"""A data set of SparseChem: fingerprints, labels, weights and folds, in the rows of one order.

SparseChem (Arany et al., arXiv:2203.04676) keeps bits, classes (-1 and 1) and numbers as sparse
matrices, with a row for each compound; a bound's side lies in a matrix of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from blindsum.platform.data.preparation.faults import Faults
from blindsum.platform.data.preparation.label_columns import (
    PlacedLabels,
    label_columns,
    records_at_once,
)
from blindsum.platform.data.preparation.recipe import FINGERPRINT, FOLD, AssayTask
from blindsum.platform.data.preparation.sparse_files import read_array, read_matrix
from blindsum.platform.data.preparation.task_weights import TaskWeights, WeightTable, read_weights
from blindsum.platform.data.task_labels import MAX_SCALED
from blindsum.platform.errors import DataError

LEAST_BITS, MOST_BITS, MOST_FOLDS = 64, 65536, 10_000
CLASSES, NUMBERS = "class", "value"
"""What the names of tasks begin with."""

Matrix: TypeAlias = Any
"""A scipy.sparse.csr_array."""

Folds = npt.NDArray[np.int64]

_UNSCALED = [(0.0, 1.0)]
"""Center and scale of a shared task of regression: constants that do not follow from data."""

_LEAST = 1e-12
"""In place of a weight of zero, whose task is left out."""


@dataclass(frozen=True)
class LabelFiles:
    """The files of labels of one kind."""

    labels: Path | None = None
    weights: Path | None = None
    censored: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SparseChemFiles:
    """The files of a data set."""

    x: Path
    classes: LabelFiles = LabelFiles()
    numbers: LabelFiles = LabelFiles()
    folding: Path
    left_out: int | None = None
    """The fold whose compounds are left out, SparseChem's fold_te."""

    bits: int | None = None
    """To how many bits fingerprints are folded, SparseChem's fold_inputs."""


@dataclass(frozen=True, kw_only=True)
class SparseChemData:
    """A data set that was read and checked. Private to the silo.

    Attributes:
        tasks: by name.
        shared: those of `tasks` that all silos share: of the catalogue, or all.
        x: fingerprints, [records, bits].
        folds: int64 [records].
        placed: labels in the order of their records.
        notes: what was left out or is different, in words.
    """

    tasks: dict[str, AssayTask]
    shared: list[str]
    x: Matrix
    folds: Folds
    placed: PlacedLabels
    notes: list[str]

    def __repr__(self) -> str:
        return "SparseChemData(private)"

    @property
    def bits(self) -> int:
        """The number of bits of a fingerprint."""
        return int(self.x.shape[1])

    @property
    def records(self) -> int:
        """The number of compounds with labels."""
        return len(self.folds)

    @property
    def labels(self) -> int:
        """The number of labels."""
        return len(self.placed.records)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the table in parts, at least one: a fold, a fingerprint and labels a record."""
        numeric = {name: task.kind == "regression" for name, task in self.tasks.items()}
        size, every = records_at_once(numeric), self.placed
        for start in range(0, self.records, size):
            stop = min(start + size, self.records)
            at = slice(*np.searchsorted(every.records, [start, stop]))
            labels = PlacedLabels(
                every.records[at] - start, every.tasks[at], every.values[at], every.sides[at]
            )
            columns = {
                FOLD: pa.array(self.folds[start:stop], pa.int16()),
                FINGERPRINT: _lists(self.x[start:stop]),
            }
            yield pa.table(columns | label_columns(numeric, labels, stop - start))


def read_sparsechem(
    files: SparseChemFiles, catalogue: Sequence[str] = (), all_shared: bool = False
) -> SparseChemData:
    """Read and check a data set.

    Args:
        all_shared: whether every task is shared: all silos have matrices of the same columns.
        catalogue: the names of shared tasks, for those that this silo has not; by default those
            that it has.

    Raises:
        DataError: a file cannot be read or is wrong: all faults of sound files in one message.
    """
    faults = Faults()
    if files.classes.labels is None and files.numbers.labels is None:
        raise DataError("there are no labels", "Name --y-class, --y-regr, or both.")
    x = _bits(read_matrix(files.x), files, faults)
    rows = x.shape[0]
    folds = _folds(files.folding, rows, faults)
    made = _Labels(faults, catalogue, all_shared)
    made.classes(files.classes, rows)
    made.numbers(files.numbers, rows)
    faults.require_none(
        "SparseChem's files cannot be imported", "Correct these. docs/imports.md says what is read."
    )
    labels = made.placed()
    kept = np.ones(rows, np.bool_) if files.left_out is None else folds != files.left_out
    labelled = np.zeros(rows, np.bool_)
    labelled[labels.records] = True
    notes = [*made.notes, *_left_out(~kept, kept & ~labelled, files.left_out)]
    kept &= labelled
    if not kept.any():
        raise DataError("no compound has a label", "Check --fold-te, and the weights.")
    at = kept[labels.records]
    places = np.cumsum(kept) - 1
    return SparseChemData(
        tasks=made.tasks,
        shared=made.shared,
        notes=notes,
        x=x[np.flatnonzero(kept)],
        folds=folds[kept],
        placed=PlacedLabels(
            places[labels.records[at]], labels.tasks[at], labels.values[at], labels.sides[at]
        ),
    )


def _left_out(
    fold: npt.NDArray[np.bool_], empty: npt.NDArray[np.bool_], number: int | None
) -> Iterator[str]:
    if fold.any():
        yield f"left out: {int(fold.sum()):,} compounds of fold {number}"
    if empty.any():
        yield f"left out: {int(empty.sum()):,} compounds without a label"


def _bits(x: Matrix, files: SparseChemFiles, faults: Faults) -> Matrix:
    """Return where fingerprints are above zero, folded if asked for."""
    if (x.data != 1).any():
        x.data = (x.data > 0).astype(np.int8)
        x.eliminate_zeros()
    if files.bits is not None:
        ones = x.tocoo()
        place = (ones.row, ones.col % files.bits)
        x = sparse.coo_array((np.ones(len(ones.row), np.int8), place), (x.shape[0], files.bits))
        x = x.tocsr()
        x.sort_indices()
    if not LEAST_BITS <= x.shape[1] <= MOST_BITS:
        faults.add(
            f"{files.x.name} has {x.shape[1]:,} columns, expected {LEAST_BITS} to {MOST_BITS:,}"
            + (": fold them with --fold-inputs" if x.shape[1] > MOST_BITS else "")
        )
    return x


def _folds(path: Path, rows: int, faults: Faults) -> npt.NDArray[np.int64]:
    found = read_array(path)
    none = np.zeros(rows, np.int64)
    if found.shape != (rows,):
        shape = " by ".join(map(str, found.shape)) or "one number"
        faults.add(f"{path.name} has the shape {shape}, expected a fold for each of {rows:,} rows")
        return none
    with np.errstate(invalid="ignore"):
        whole = found.astype(np.int64)
    if (whole != found).any() or (whole < 0).any() or (whole >= MOST_FOLDS).any():
        faults.add(f"{path.name} has folds that are no whole numbers from 0 to {MOST_FOLDS - 1:,}")
        return none
    return whole


def _lists(x: Matrix) -> pa.Array:
    positions = pa.array(x.indices.astype(np.int32))
    return pa.ListArray.from_arrays(pa.array(x.indptr.astype(np.int32)), positions)


class _Labels:
    """The tasks and labels of matrices.

    Attributes:
        shared: the names of tasks in the catalogue.
    """

    def __init__(self, faults: Faults, catalogue: Sequence[str], all_shared: bool) -> None:
        self._faults, self._catalogue, self._all_shared = faults, list(catalogue), all_shared
        self.tasks = {name: AssayTask() for name in self._catalogue}
        self.shared, self.notes = list(self._catalogue), list[str]()
        self._taken = set[str]()
        self._placed = list[PlacedLabels]()
        self._tables: dict[Path, WeightTable] = {}

    def placed(self) -> PlacedLabels:
        """Return all labels, in the order of their records."""
        columns = [
            np.concatenate([getattr(one, name) for one in self._placed])
            for name in ("records", "tasks", "values", "sides")
        ]
        order = np.argsort(columns[0], kind="stable")
        return PlacedLabels(*(one[order] for one in columns))

    def classes(self, files: LabelFiles, rows: int) -> None:
        """Add a matrix of -1 and 1."""
        y = self._matrix(files.labels, rows)
        if y is None or files.labels is None:
            return
        if not np.isin(y.data, (-1, 1)).all():
            self._faults.add(
                f"{files.labels.name} has classes other than -1 and 1 (a missing one is not stored)"
            )
        y.data = (y.data > 0).astype(np.float32)
        tasks = [AssayTask(weight=max(one.weight, _LEAST)) for one in self._weights(files, y)]
        none, every = np.zeros(y.nnz, np.int8), np.ones(y.nnz, np.bool_)
        self._add(y, none, tasks, files, CLASSES, every)

    def numbers(self, files: LabelFiles, rows: int) -> None:
        """Add a matrix of numbers."""
        y = self._matrix(files.labels, rows, zeros=True)
        if y is None or files.labels is None:
            return
        with np.errstate(over="ignore"):
            y.data = y.data.astype(np.float32)
        if not np.isfinite(y.data).all():
            self._faults.add(f"{files.labels.name} has numbers that are NaN or infinite")
            return
        sides = np.zeros(y.nnz, np.int8)
        if files.censored:
            sides = self._sides(files.censored, y)
        scales = _UNSCALED * y.shape[1] if self._all_shared else _scales(y, sides)
        weights = self._weights(files, y)
        tasks = [
            AssayTask(kind="regression", weight=max(one.weight, _LEAST), center=center, scale=scale)
            for one, (center, scale) in zip(weights, scales, strict=True)
        ]
        center, scale = (np.array(one)[y.indices] for one in zip(*scales, strict=True))
        near = np.abs(y.data - center) <= MAX_SCALED * scale
        if far := int((~near).sum()):
            self.notes.append(
                f"left out: {far:,} numbers further than {MAX_SCALED:g} scales from their center"
            )
        self._add(y, sides, tasks, files, NUMBERS, near)

    def _matrix(self, path: Path | None, rows: int, zeros: bool = False) -> Matrix | None:
        if path is None:
            return None
        y = read_matrix(path, zeros)
        if y.shape[0] != rows:
            self._faults.add(f"{path.name} has {y.shape[0]:,} rows, expected those of X: {rows:,}")
            return None
        return y

    def _sides(self, path: Path, y: Matrix) -> npt.NDArray[np.int8]:
        """Return the side of every number, in their order; sides that are not stored are 0."""
        found, sides = read_matrix(path), np.zeros(y.nnz, np.int8)
        if found.shape != y.shape:
            self._faults.add(f"{path.name} has another shape than the numbers that it is for")
            return sides
        if not np.isin(found.data, (-1, 0, 1)).all():
            self._faults.add(f"{path.name} has sides other than -1, 0 and 1")
            return sides
        ours, theirs = _keys(y), _keys(found)
        at = np.searchsorted(ours, theirs)
        if not np.isin(theirs, ours).all():
            self._faults.add(f"{path.name} has sides where there are no numbers")
            return sides
        sides[at] = found.data
        return sides

    def _weights(self, files: LabelFiles, y: Matrix) -> list[TaskWeights]:
        if files.weights is None:
            return [TaskWeights()] * y.shape[1]
        found = self._tables.get(files.weights)
        if found is None:
            found = self._tables[files.weights] = read_weights(
                files.weights, y.shape[1], self._faults
            )
            self.notes += found.notes
        return found.tasks

    def _add(
        self,
        y: Matrix,
        sides: npt.NDArray[np.int8],
        tasks: Sequence[AssayTask],
        files: LabelFiles,
        kind: str,
        chosen: npt.NDArray[np.bool_],
    ) -> None:
        """Add the tasks and the chosen labels of a matrix, without those of weight zero."""
        weights, names = self._weights(files, y), list[str]()
        for i, one in enumerate(weights):
            names.append("" if one.weight == 0 else self._name(one, kind, i))
            if names[-1] and one.catalogue:
                self.tasks[names[-1]] = AssayTask()  # its weight is the consortium's
            elif names[-1]:
                self.tasks[names[-1]] = tasks[i]
        if without := sum(one.weight == 0 for one in weights):
            self.notes.append(f"left out: {without:,} tasks of {kind} with a training_weight of 0")
        numbers = {name: i for i, name in enumerate(self.tasks)}
        of_column = np.array([numbers.get(name, -1) for name in names], np.int32)
        task = of_column[y.indices]
        records = np.repeat(np.arange(y.shape[0]), np.diff(y.indptr))
        kept = chosen & (task >= 0)
        self._placed.append(PlacedLabels(records[kept], task[kept], y.data[kept], sides[kept]))

    def _name(self, one: TaskWeights, kind: str, column: int) -> str:
        """Return the name of a column's task, empty if it cannot have one."""
        if not one.catalogue:
            if self._all_shared:
                self.shared.append(f"{kind}_{column}")
            return f"{kind}_{column}"
        where = f"task {column} of {kind}: its catalog_id"
        if kind == NUMBERS:
            self._faults.add(f"{where} belongs to classes only")
        elif self._catalogue and one.catalogue not in self._catalogue:
            self._faults.add(f"{where} is not among those of --catalogue")
        elif one.catalogue in self._taken:
            self._faults.add(f"{where} is that of another task")
        else:
            self._taken.add(one.catalogue)
            if one.catalogue not in self.shared:
                self.shared.append(one.catalogue)
            return one.catalogue
        return ""


def _scales(y: Matrix, sides: npt.NDArray[np.int8]) -> list[tuple[float, float]]:
    """Return the median and the standard deviation of each column's exact numbers, to six digits:
    center and scale of a task of the silo's own."""
    exact = sides == 0
    columns, values = y.indices[exact], y.data[exact]
    order = np.argsort(columns, kind="stable")
    ends = np.searchsorted(columns[order], np.arange(y.shape[1] + 1))
    found = []
    for start, stop in pairwise(ends):
        there = values[order[start:stop]].astype(np.float64)
        middle, spread = (np.median(there), np.std(there)) if len(there) else (0.0, 0.0)
        found.append((float(f"{middle:.6g}"), float(f"{spread:.6g}") or 1.0))
    return found


def _keys(matrix: Matrix) -> npt.NDArray[np.int64]:
    """Return the place of each stored value as one number, ascending."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    found: npt.NDArray[np.int64] = rows * matrix.shape[1] + matrix.indices
    return found

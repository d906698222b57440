"""Public molecules with labels, as one table, and their features in every representation.

All representations are compared on the same records: those of which each has features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from blindsum.pipelines.selection.candidates import REPRESENTATIONS
from blindsum.platform.data.computing import Computing, granted_cores
from blindsum.platform.data.features import features_of
from blindsum.platform.data.reading import read_table
from blindsum.platform.data.records import Fold, Stored
from blindsum.platform.data.split import fraction
from blindsum.platform.data.task_labels import task_labels
from blindsum.platform.errors import ConsentError, DataError
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.owner import find_owner

_FEATURES: TypeAdapter[Any] = TypeAdapter(Features)
_TASKS: TypeAdapter[Tasks] = TypeAdapter(Tasks)
LEAST = 200
"""Fewest records with which folds and silos say anything."""

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PublicRecords:
    """The usable records, in one order.

    Attributes:
        features: by representation, [records, features].
        labels: float32 [records, 2, tasks], as `blindsum.platform.data.task_labels`.
        scaffolds: the key of each record's fold.
        tasks: by name; regressions with the center and scale of these records, which are public.
        left_out: the number of records without features in some representation, or without labels.
    """

    features: dict[str, Stored]
    labels: npt.NDArray[np.float32]
    scaffolds: Sequence[str]
    tasks: Tasks
    left_out: int

    def __len__(self) -> int:
        return len(self.scaffolds)

    @property
    def is_binary(self) -> bool:
        """Whether the tasks are binary: scored by AUROC, and not by R2."""
        return all(task.kind == "binary" for task in self.tasks.values())

    @property
    def task_sections(self) -> dict[str, dict[str, Any]]:
        """The tasks as a job file's section."""
        return {
            name: {"kind": task.kind, **task.model_dump(exclude_defaults=True)}
            for name, task in self.tasks.items()
        }

    def width(self, representation: str) -> int:
        """Return the number of features of a representation."""
        return int(self.features[representation].shape[1])

    def parts(self, salt: str, count: int) -> npt.NDArray[np.int64]:
        """Return to which of `count` parts each record belongs, int64 [records]: all records of a
        scaffold to one."""
        known = {key: int(count * fraction(salt, key)) for key in set(self.scaffolds)}
        return np.array([known[key] for key in self.scaffolds])

    def fold(self, representation: str, rows: Rows) -> Fold:
        """Return the chosen records, bool [records]."""
        return Fold(self.features[representation][rows], self.labels[rows])


def require_public(path: Path) -> None:
    """Refuse to train on an owner's datasets: nothing here is charged to their ledger.

    Nobody can tell from a file whether its records are public. The user says so, as of weights that
    are published.

    Raises:
        ConsentError: the machine's tables are an owner's datasets.
    """
    if owner := find_owner():
        raise ConsentError(
            f"this machine's tables are datasets of {owner.path}: choosing features on "
            f"{path.name} would pass their ledger by",
            "Choose on public files, on a machine or as a user without an owner's file.",
        )


def read_public(
    path: Path,
    smiles: str,
    labels: Sequence[str],
    representations: Sequence[str],
    begun: Callable[[str], None] = lambda name: None,
    told: Callable[[float], None] = lambda share: None,
) -> PublicRecords:
    """Read a table of public molecules, and compute their features.

    Args:
        labels: columns of 0 and 1, or of numbers; if none, all columns of only 0, 1 and gaps.
        begun: called with each representation before it is computed.
        told: called with the share of a representation that is computed, as it goes on.

    Raises:
        DataError: the file cannot be read, a column is missing or holds no labels, or there are too
            few records.
    """
    table = read_table(path, [smiles])
    for name in (smiles, *labels):
        if name not in table.column_names:
            raise DataError(
                f"{path.name} has no column {name!r}",
                f"Its columns are {', '.join(table.column_names)}.",
            )
    tasks = tasks_of(table, path, smiles, labels)
    found = task_labels(table, tasks, path)
    usable = ~np.isnan(found.labels[:, 0]).all(1)
    for rejected in found.rejected:
        usable &= ~rejected.rows
    usable &= ~np.array(pc.is_null(table[smiles]), np.bool_)
    rows, computed, keys = np.flatnonzero(usable), dict[str, tuple[Stored, Rows]](), list[str]()
    texts = table.select([smiles]).take(pa.array(rows))
    for name in representations:
        begun(name)
        section = _FEATURES.validate_python({**REPRESENTATIONS[name], "smiles": smiles})
        means = Computing(cores=granted_cores(), told=told)
        made = features_of(section).compute(texts, means, "scaffold" if not keys else None)
        computed[name] = made.features, made.usable
        if not keys:  # records without a key are none of this representation's, and so not used
            keys = [""] * len(rows)
            for row, key in zip(np.flatnonzero(made.usable), made.keys or (), strict=True):
                keys[row] = key
    everywhere = np.logical_and.reduce([one for _, one in computed.values()])
    if int(everywhere.sum()) < LEAST:
        raise DataError(
            f"{path.name} has {int(everywhere.sum())} usable records, fewer than {LEAST}",
            "Give more public molecules with labels.",
        )
    return PublicRecords(
        features={name: made[everywhere[own]] for name, (made, own) in computed.items()},
        labels=found.labels[rows[everywhere]],
        scaffolds=[key for key, kept in zip(keys, everywhere, strict=True) if kept],
        tasks=tasks,
        left_out=table.num_rows - int(everywhere.sum()),
    )


def tasks_of(table: pa.Table, path: Path, smiles: str, labels: Sequence[str]) -> Tasks:
    """Return the tasks of a table's label columns: binary if a column holds 0, 1 and gaps alone,
    else regression with the mean and deviation of its numbers.

    Raises:
        DataError: a column holds no labels, or binary tasks and regressions are mixed.
    """
    found = dict[str, dict[str, Any]]()
    for name in labels or [one for one in table.column_names if one != smiles]:
        column = table[name]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            if labels:
                raise DataError(
                    f"{path.name}: column {name!r} is {column.type}, and no label",
                    "Give columns of 0 and 1, or of numbers.",
                )
            continue
        values = column.drop_null().to_numpy().astype(np.float64)
        values = values[np.isfinite(values)]
        if len(values) and ((values == 0) | (values == 1)).all():
            found[name] = {"kind": "binary"}
        elif labels and len(values) and values.std() > 0:
            center, scale = (float(f"{x:.3g}") for x in (values.mean(), values.std()))
            found[name] = {"kind": "regression", "center": center, "scale": scale}
        elif labels:
            raise DataError(
                f"{path.name}: column {name!r} has one value or none", "Leave it out of --label."
            )
    kinds = {task["kind"] for task in found.values()}
    if len(kinds) != 1:
        said = "mixes columns of 0 and 1 with columns of numbers" if kinds else "has no column of 0"
        raise DataError(
            f"{path.name} {said}{'' if kinds else ' and 1'}",
            "Name the columns of labels with --label, of one kind.",
        )
    return _TASKS.validate_python(found)

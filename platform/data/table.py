"""A silo's table: read, checked against the job's contract, split into folds.

Nothing here leaves the silo. Errors name column, expected and found, never a value, a row or
a count: the size of a silo's data is private too. Rows at fault are listed in a file in the
silo's own state folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from blindsum.platform.data.features import featurise, needed_columns
from blindsum.platform.data.fingerprint import fingerprints
from blindsum.platform.data.labels import (
    class_labels,
    require_labelled,
    task_columns,
    task_labels,
)
from blindsum.platform.data.records import Fold, Stored
from blindsum.platform.data.split import in_test_fold
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection, Prepared, Tasks

PREPARED = b"blindsum.prepared"
"""Where a table's metadata holds how it was prepared."""


@dataclass(frozen=True)
class SiloData:
    """One silo's folds. Private to the silo.

    `fingerprint` is a digest of the used columns in which neither the order of rows nor the program
    that wrote the file counts: the ledger knows the dataset by it. `earlier` are digests of the same
    records as earlier versions computed them. `dropped` counts molecules that RDKit cannot read.
    """

    train: Fold
    test: Fold
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "SiloData(private)"


def load_data(
    path: Path, contract: DataSection, rejects: Path, own: Tasks | None = None
) -> SiloData:
    """Read a silo's table and prepare both folds.

    Args:
        path: Parquet, or CSV where the name ends in .csv or .csv.gz.
        rejects: file to list the positions of unreadable molecules in, mode 0600.
        own: the silo's private tasks.

    Raises:
        DataError: unreadable file, missing column, wrong type, missing or infinite values,
            an unknown class, an unreadable molecule, or an empty fold.
    """
    usable = _usable(path, contract, rejects, own or {})
    table, features = usable.table, usable.features
    if contract.target:
        labels = class_labels(table, contract.target, path)
    else:
        with _unnamed(rejects):
            of_own = task_labels(table, own or {}, path)
        labels = np.concatenate([task_labels(table, contract.tasks or {}, path), of_own], axis=2)
        require_labelled(labels, path)
    test = in_test_fold(table, contract)
    data = SiloData(
        Fold(features[~test], labels[~test]),
        Fold(features[test], labels[test]),
        usable.fingerprint,
        usable.dropped,
        usable.earlier,
    )
    for name, fold in (("train", data.train), ("test", data.test)):
        if len(fold) == 0:
            raise DataError(
                f"the {name} fold of {path.name} is empty",
                "Change data.folds (salt and test_fraction, or held_out), or give this silo more data.",
            )
    return data


def load_molecules(
    path: Path, contract: DataSection, rejects: Path
) -> tuple[list[str], list[str]] | None:
    """SMILES of the training and of the held-out records, in the order of `load_data`'s folds;
    None where records are no molecules. Private to the silo.

    Raises:
        DataError: as `load_data`.
    """
    _, text = needed_columns(contract.features)
    if not text:
        return None
    table = _usable(path, contract, rejects, {}).table
    smiles = np.array(table.column(text[0]).to_pylist(), dtype=object)
    test = in_test_fold(table, contract)
    return smiles[~test].tolist(), smiles[test].tolist()


@dataclass(frozen=True)
class _Usable:
    """Records that could be read: their table and features."""

    table: pa.Table
    features: Stored
    fingerprint: str
    dropped: int
    earlier: tuple[str, ...]


def _usable(path: Path, contract: DataSection, rejects: Path, own: Tasks) -> _Usable:
    text_keys = contract.folds.kind == "hash" and contract.folds.key == "text"
    table = read_table(path, [contract.folds.column] if text_keys else ())  # type: ignore[union-attr]
    if table.num_rows == 0:
        raise DataError(f"{path.name} has no records", "Give this silo data, or leave it out.")
    numeric, text = needed_columns(contract.features)
    folds, target = contract.folds, contract.target
    keys = [] if folds.kind == "scaffold" else [folds.column]
    numbers, qualifiers = task_columns(contract.tasks or {})
    own_numbers, own_qualifiers = task_columns(own)
    _require_prepared(table, contract.prepared, path)
    lists = [contract.features.column] if contract.features.kind == "fingerprint" else []
    for name in lists:
        _require(table, name, "lists of integers", path, _is_positions)
    for name in numeric:
        _require(table, name, "a number", path, _is_number)
    _require_tasks(table, numbers, qualifiers, path)
    with _unnamed(rejects):
        _require_tasks(table, own_numbers, own_qualifiers, path)
    for name in [*text, *(keys if folds.kind == "column" and folds.held_out is None else [])]:
        _require(table, name, "text", path, _is_text)
    for name in keys if folds.kind == "column" and folds.held_out is not None else []:
        _require(table, name, "an integer", path, _is_integer)
    if folds.kind == "hash":
        fits = _is_text if folds.key == "text" else _is_integer
        expected = "text" if folds.key == "text" else "an integer"
        _require(table, folds.column, f"{expected} (data.folds.key)", path, fits)
    if target:
        is_text = isinstance(target.classes[0], str)
        _require(
            table,
            target.column,
            "text" if is_text else "an integer",
            path,
            _is_text if is_text else _is_integer,
        )
    gapless = list(
        dict.fromkeys([*numeric, *text, *lists, *keys, *([target.column] if target else [])])
    )
    of_tasks = [*numbers, *qualifiers, *own_numbers, *own_qualifiers]
    used = list(dict.fromkeys([*gapless, *of_tasks]))
    table = table.select(used).combine_chunks()
    _refuse_missing(table.select(gapless), path)
    try:
        fingerprint, earlier = fingerprints(table)
        made = featurise(table, contract.features)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise DataError(
            f"{path.name} holds values that do not fit their columns' types "
            f"({type(error).__name__})",
            "Check text for its encoding (UTF-8) and numbers for their range.",
        ) from None
    dropped = int((~made.usable).sum())
    if dropped:
        _report_rejects(made.usable, rejects)
    if dropped and contract.unparsable == "refuse":
        raise DataError(
            f"column '{needed_columns(contract.features)[1][0]}' of {path.name} holds molecules "
            f"that RDKit cannot read; their rows are listed in {rejects} at the silo",
            "Mend or remove them, or set data.unparsable: drop to train without them.",
        )
    return _Usable(
        table.filter(pa.array(made.usable)), made.features, fingerprint, dropped, earlier
    )


def read_table(path: Path, texts: Collection[str] = ()) -> pa.Table:
    """A Parquet file, or a CSV where the name ends in .csv or .csv.gz.

    Args:
        texts: columns of a CSV that are text though they may look like numbers.

    Raises:
        DataError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", "Name the Parquet or CSV file itself.")
    try:
        if path.name.endswith((".csv", ".csv.gz")):
            kinds = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
            table = pyarrow.csv.read_csv(path, convert_options=kinds)
            _ = table.column_names  # decodes the header: a ValueError where it is not UTF-8
            return table
        # Not read_table, which makes columns of folder names such as `site=3`.
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(
            f"there is no data file {path}",
            "Relative paths start at the folder of the file that names it, on the silo's own node.",
        ) from None
    except PermissionError:
        raise DataError(f"{path} may not be read by this user", "Check its permissions.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as {'CSV' if '.csv' in path.name else 'Parquet'} "
            f"({type(error).__name__})",
            "Check that the file is complete and of that kind; CSV has commas and is UTF-8.",
        ) from None


def _require(
    table: pa.Table, name: str, expected: str, path: Path, fits: Callable[[pa.DataType], bool]
) -> None:
    count = table.column_names.count(name)
    if count != 1:
        problem = "is missing" if count == 0 else f"is there {count} times"
        # The columns that are there are not named: in a CSV without a header, the first
        # record stands where the names should be.
        raise DataError(
            f"{path.name}: column '{name}' {problem}",
            "Rename the column in the data, or name it so in the job's data section. "
            "(The first line of a CSV must hold the names.)",
        )
    found = table.schema.field(name).type
    if not fits(found):
        raise DataError(
            f"{path.name}: column '{name}' is {found}, expected {expected}",
            "Convert the column; all silos must agree on its type.",
        )


def _require_prepared(table: pa.Table, prepared: Prepared | None, path: Path) -> None:
    """Raises DataError if a table does not say that it was prepared as the job wants it."""
    if prepared is None:
        return
    found = preparation_of(table)
    if not found:
        raise DataError(
            f"{path.name} was not written by blindsum prepare, and the job has data.prepared",
            "Prepare it, or leave data.prepared out.",
        )
    differ = [name for name, value in prepared if found.get(name) != value]
    if "secret" in differ:
        differ = ["secret"]  # folds and features follow from it
    if differ:
        raise DataError(
            f"{path.name} was prepared otherwise than data.prepared says: by other {', '.join(differ)}",
            "Compare the silos' manifest.json with: blindsum prepare ... --against MANIFEST.",
        )


def preparation_of(table: pa.Table) -> dict[str, str]:
    """The digests in a table's metadata; none where `blindsum prepare` did not write it."""
    try:
        found = json.loads((table.schema.metadata or {}).get(PREPARED, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _require_tasks(table: pa.Table, numbers: list[str], qualifiers: list[str], path: Path) -> None:
    for name in numbers:  # an assay that this silo never ran may be empty from top to bottom
        _require(table, name, "a number", path, lambda t: _is_number(t) or pa.types.is_null(t))
    for name in qualifiers:
        _require(table, name, "text", path, lambda t: _is_text(t) or pa.types.is_null(t))


@contextmanager
def _unnamed(rejects: Path) -> Iterator[None]:
    """Private tasks are nobody else's, in name and number: what is wrong with them is written at the silo."""
    try:
        yield
    except (DataError, pa.ArrowException, ValueError, OverflowError) as error:
        place = rejects.with_name("private_tasks_error.txt")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.touch(mode=0o600)
        place.write_text(f"{error}\n", encoding="utf-8")
        raise DataError(
            "a column of this silo's private tasks is missing or holds wrong values",
            f"Which and why is written in {place} at the silo.",
        ) from None


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_positions(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and _is_integer(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse_missing(table: pa.Table, path: Path) -> None:
    for name in table.column_names:
        column = table.column(name)
        infinite = False
        if pa.types.is_floating(column.type):
            infinite = not pc.all(pc.is_finite(pc.drop_null(column)), min_count=0).as_py()
        if column.null_count or infinite:
            raise DataError(
                f"{path.name}: column '{name}' has missing, NaN or infinite values",
                "Fill or remove those records.",
            )


def _report_rejects(usable: npt.NDArray[np.bool_], path: Path) -> None:
    rows = "\n".join(str(row + 1) for row in np.flatnonzero(~usable))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(f"rows that RDKit cannot read, from 1:\n{rows}\n", encoding="utf-8")

"""A silo's table with the columns that the job uses, and their types checked, part by part.

Nothing here leaves the silo. An error names the column, its type and the expected type, never a
value, a row or a count: the size of a silo's data is private too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.at_silo import TABLE_NOTES, told_at_silo, write_at_silo
from blindsum.platform.data.columns import Column, require
from blindsum.platform.data.features import features_of
from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.files.parts import EVERY, Part
from blindsum.platform.data.labels import target_column
from blindsum.platform.data.prepared_table import require_prepared
from blindsum.platform.data.reading import read_parts
from blindsum.platform.data.rejected_rows import without_names
from blindsum.platform.data.split import folds_of
from blindsum.platform.data.task_labels import task_columns
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks


def checked_parts(
    path: Path, contract: DataSection, rejects: Path, own: Tasks, rows: range = EVERY
) -> Iterator[Part]:
    """Yield the columns that the contract uses, with checked types and in one form. No part is
    empty.

    Args:
        rows: those to read. There must be records if these are all.

    Raises:
        DataError: the file cannot be read or has no records, or a column is missing or has another
            type.
    """
    features, folds = features_of(contract.features), folds_of(contract.folds)
    of_labels, of_own = _label_columns(contract), task_columns(own)
    shared = [*features.columns(), *folds.columns(), *of_labels]
    every = [*shared, *of_own]
    texts = [column.name for column in every if column.type.text_in_csv]
    notes, used, is_empty = list[str](), _names(every), True
    with told_at_silo(path, contract, rejects):
        most = features.most_records
        for part in read_parts(path, texts, contract.csv, notes.append, used, most, rows):
            if notes:
                write_at_silo(rejects.with_name(TABLE_NOTES), "\n".join(notes))
                notes.clear()
            if not part.table.num_rows:
                continue
            is_empty, table = False, part.table
            require_prepared(table, contract.prepared, path)
            with without_names(rejects):
                table = plain(table, _expected(of_own), path)
            table = plain(table, _expected(shared), path)
            require(table, shared, path, features.without_gaps)
            with without_names(rejects):
                require(table, of_own, path)
            with fitting(path):
                table = features.uniform(table.select(used).combine_chunks(), _folder(path))
                table = folds.uniform(table)
            yield part._replace(table=table)
        if is_empty and rows == EVERY:
            raise DataError(f"{path.name} has no records", "Give this silo data, or leave it out.")


def used_columns(contract: DataSection) -> list[str]:
    """Return the names of the columns that the contract uses, without a silo's private tasks."""
    features, folds = features_of(contract.features), folds_of(contract.folds)
    return _names([*features.columns(), *folds.columns(), *_label_columns(contract)])


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def key_columns(contract: DataSection) -> list[str]:
    """Return the columns that only say in which fold a record lies."""
    return [n for n in _names(folds_of(contract.folds).columns()) if n not in contract.inputs]


def fold_columns(contract: DataSection) -> list[str]:
    """Return the columns of the folds."""
    return _names(folds_of(contract.folds).columns())


def _label_columns(contract: DataSection) -> list[Column]:
    if contract.target:
        return [target_column(contract.target)]
    return task_columns(contract.tasks or {})


def _expected(columns: Iterable[Column]) -> dict[str, str]:
    return {column.name: column.type.expected for column in columns}


def _names(columns: Iterable[Column]) -> list[str]:
    """Return the columns' names, each once."""
    return list(dict.fromkeys(column.name for column in columns))


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise an Arrow error about a value as a DataError that tells no value."""
    try:
        yield
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise DataError(
            f"{path.name} holds values that do not fit their columns' types "
            f"({type(error).__name__})",
            "Check text for its encoding (UTF-8) and numbers for their range.",
        ) from None

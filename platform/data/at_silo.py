"""What only a silo's owner is told about the silo's table: values, row numbers, other columns.

It is written to files in the silo's state folder, mode 0600. An error that may leave the silo names
such a file, and says the same whatever the file says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blindsum.platform.data.files.csv_findings import csv_findings
from blindsum.platform.data.reading import is_csv
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection

TABLE_PROBLEM, TABLE_NOTES = "table_problem.txt", "table_notes.txt"
"""Files in the folder of one run at the silo: why a table was refused, and what was left out
of one that was read."""


def write_at_silo(place: Path, text: str) -> None:
    """Write a file that only the silo's user can read, and its folder.

    Raises:
        DataError: it cannot be written, for example because the disk is full.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.unlink(missing_ok=True)  # a leftover file would keep its old mode
        file = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(file, "w", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
    except OSError as error:
        raise _unwritable(place, error) from None


def remove_at_silo(place: Path) -> None:
    """Remove what was written there about an earlier table, if anything was. Raises DataError, as
    `write_at_silo`."""
    try:
        place.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unwritable(place, error) from None


def _unwritable(place: Path, error: OSError) -> DataError:
    return DataError(
        f"{place} cannot be written ({error.strerror})",
        "Check the silo's state folder: its permissions, and space on its disk.",
    )


def read_at_silo(folder: Path) -> list[str]:
    """Return what was written about a table in the folder of one run, for a process of the
    owner's. Empty if nothing was."""
    found = []
    for name in (TABLE_PROBLEM, TABLE_NOTES):
        try:
            found.append((folder / name).read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return found


@contextmanager
def told_at_silo(path: Path, contract: DataSection, rejects: Path) -> Iterator[None]:
    """Write what errors about a table say to its owner alone beside the file of rejected rows."""
    for name in (TABLE_PROBLEM, TABLE_NOTES):
        remove_at_silo(rejects.with_name(name))
    try:
        yield
    except DataError as error:
        if not error.at_silo:
            raise
        text = error.at_silo
        if is_csv(path) and (more := csv_findings(path, contract.csv)) not in text:
            text += f"\n{more}"
        place = rejects.with_name(TABLE_PROBLEM)
        try:
            write_at_silo(place, f"{error.what}\n{text}\n")
        except DataError:  # a full disk must not hide the error
            raise error from None
        hint = f"{error.hint} {place} at the silo says what was found instead."
        raise DataError(error.what, hint, at_silo=text) from None

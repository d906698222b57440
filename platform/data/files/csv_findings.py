"""What a CSV file looks like, for its owner: a wrong delimiter, decimal mark or encoding, and rows
of the wrong length.

The findings quote the file. They are written at the silo and never sent.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.files.csv_dialect import Dialect, dialect_of, opened
from blindsum.platform.job.csv_section import CsvSection

_SAMPLE_ROWS = 200
_MOST_LISTED = 10
_MOST_ROWS = 1_000_000
"""Rows that are looked at, so that a silo with a huge file still answers in time."""
_CHUNK = 1 << 20
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}

_WESTERN = "cp1252"

_COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(([,.' ]|\u00a0|\u202f|\u2019)\d{3})+([.,]\d+)?")
_PLAIN = re.compile(r"[+-]?\d*(\.\d*)?([eE][+-]?\d+)?")


def csv_findings(path: Path, section: CsvSection | None) -> str:
    """Return what differs from the way in which the job reads a CSV file, with the settings to
    change. Says how the file is read if nothing differs."""
    section, found = section or CsvSection(), list[str]()
    with contextlib.suppress(OSError, EOFError, ValueError, pa.ArrowException, csv.Error):
        for text in _findings(path, section, dialect_of(path, section)):
            found.append(text)  # not all at once: what was found before an error counts
    return "\n".join(found or [f"{path.name} was read as data.csv says, and nothing looks odd."])


def _findings(path: Path, section: CsvSection, dialect: Dialect) -> Iterator[str]:
    encoding, said = _encoding(path, dialect.encoding)
    if said:
        yield said
    delimiter = _delimiter(path, encoding, dialect)
    if delimiter != dialect.delimiter:
        yield (
            f"The cells of {path.name} seem to be separated by {_DELIMITERS[delimiter]}, but they "
            f"are read as separated by {dialect.delimiter!r}. Set data.csv.delimiter: "
            f"{json.dumps(delimiter)}."
        )
    yield from _numbers(_rows(path, encoding, delimiter, dialect), section)
    yield from _ragged(path, encoding, delimiter, dialect)


def _encoding(path: Path, used: str) -> tuple[str, str]:
    """Return the encoding that the file seems to have, and what to say about it."""
    with opened(path) as stream:
        begins = stream.read(2)
    if begins in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and not used.startswith("utf-16"):
        return "utf-16", f"{path.name} is UTF-16. Set data.csv.encoding: utf-16."
    fault = _undecodable(path, used)
    if fault is None:
        return used, ""
    line, text = fault
    if used != "utf-8" and _undecodable(path, "utf-8") is None:
        return "utf-8", f"{path.name} is UTF-8, not {used}. Set data.csv.encoding: utf-8."
    if _undecodable(path, _WESTERN) is None:
        said = (
            f"Line {line} of {path.name} is not {used}. Read as {_WESTERN} (Windows in Western "
            f"Europe and America, nearly the same as latin-1) it has {text.decode(_WESTERN)!r}. "
            f"If that is right, set data.csv.encoding: {_WESTERN}."
        )
        return _WESTERN, said
    return "latin-1", (
        f"Line {line} of {path.name} is not {used}. Set data.csv.encoding to what its writer used."
    )


def _undecodable(path: Path, encoding: str) -> tuple[int, bytes] | None:
    """Return the number and the bytes of the first line that cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, rest = 1, b""
    with opened(path) as stream:
        while chunk := stream.read(_CHUNK):
            try:
                decoder.decode(chunk)
            except UnicodeError as error:
                at = getattr(error, "start", 0)
                before = rest + chunk[:at]
                begun = before.rpartition(b"\n")[2][-60:]
                return line + chunk[:at].count(b"\n"), begun + chunk[at : at + 60].split(b"\n")[0]
            line, rest = line + chunk.count(b"\n"), chunk.rpartition(b"\n")[2][-60:]
    try:
        decoder.decode(b"", final=True)
    except UnicodeError:
        return line, rest
    return None


def _rows(path: Path, encoding: str, delimiter: str, dialect: Dialect) -> Iterator[list[str]]:
    """Yield the file's rows, the header first, without empty lines."""
    with opened(path) as stream:
        text = io.TextIOWrapper(
            io.BufferedReader(stream), encoding=encoding, errors="replace", newline=""
        )
        if dialect.has_separator_line:
            text.readline()
        yield from (row for row in csv.reader(text, delimiter=delimiter) if row)


def _sample(path: Path, encoding: str, delimiter: str, dialect: Dialect) -> list[list[str]]:
    rows = _rows(path, encoding, delimiter, dialect)
    return list(itertools.islice(rows, _SAMPLE_ROWS))


def _delimiter(path: Path, encoding: str, dialect: Dialect) -> str:
    """Return the delimiter by which most rows have as many cells as the header, and most cells."""

    def score(delimiter: str) -> tuple[bool, int]:
        rows = _sample(path, encoding, delimiter, dialect)
        cells = len(rows[0]) if rows else 0
        alike = sum(len(row) == cells for row in rows)
        return cells > 1 and alike >= 0.8 * len(rows), cells

    scores = {one: score(one) for one in (dialect.delimiter, *_DELIMITERS)}
    best = max(scores, key=lambda one: scores[one])  # among equals, the one that is used
    return best if scores[best][0] else dialect.delimiter


def _numbers(rows: Iterator[list[str]], section: CsvSection) -> Iterator[str]:
    """Say which columns have numbers with a decimal comma, or with marks between thousands."""
    header = next(rows, [])
    commas, grouped = dict[str, tuple[int, str]](), dict[str, tuple[int, str]]()
    unlike = set[str]()  # columns of other text
    for number, row in enumerate(itertools.islice(rows, _SAMPLE_ROWS), 1):
        for name, cell in zip(header, map(str.strip, row), strict=False):
            read = cell if section.decimal == "." else cell.replace(".", "'").replace(",", ".")
            if _PLAIN.fullmatch(read):
                continue
            if _GROUPED.fullmatch(cell):
                grouped.setdefault(name, (number, cell))
            elif _COMMA_NUMBER.fullmatch(cell):
                commas.setdefault(name, (number, cell))
            elif cell:
                unlike.add(name)
    commas = {name: one for name, one in commas.items() if name not in unlike}
    if commas and section.decimal == ".":
        name, (number, cell) = next(iter(commas.items()))
        yield (
            f"Numbers have a decimal comma, for example {cell!r} in row {number} of column "
            f'{name!r}. Set data.csv.decimal: ",".'
        )
    for name, (number, cell) in list(grouped.items())[:_MOST_LISTED]:
        if name in commas or name in unlike:
            continue
        yield (
            f"Column {name!r} has marks between thousands, for example {cell!r} in row {number}: "
            "write its numbers without them, or set data.csv.decimal if the mark is a decimal mark."
        )


def _ragged(path: Path, encoding: str, delimiter: str, dialect: Dialect) -> Iterator[str]:
    rows = _rows(path, encoding, delimiter, dialect)
    cells = len(next(rows, []))
    numbered = enumerate(itertools.islice(rows, _MOST_ROWS), 1)
    wrong = [(number, len(row)) for number, row in numbered if len(row) != cells]
    if wrong:
        listed = ", ".join(f"{number} ({found})" for number, found in wrong[:_MOST_LISTED])
        more = f", and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
        yield (
            f"These rows do not have as many cells as the header, {cells} (rows from 1, below the "
            f"header; in brackets their cells): {listed}{more}."
        )

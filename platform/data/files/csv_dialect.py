"""How a CSV file is written: as the job says, or the file itself in a first line `sep=;`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from blindsum.platform.job.csv_section import CsvSection

ENDINGS = (".csv", ".tsv", ".tab")
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}

_PEEK = 1 << 16
_LONGEST_LINE = 1 << 28
_BLOCK = 1 << 20


def uncompressed_name(path: Path) -> str:
    """Return the file's name in lower case, without the ending of a compression."""
    name = path.name.lower()
    return name.removesuffix(path.suffix.lower()) if path.suffix.lower() in COMPRESSED else name


def opened(path: Path) -> Any:
    """Return the file as a stream of bytes, decompressed as the file's ending says."""
    return pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix.lower()))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The way in which one CSV file is written.

    `has_separator_line` is true if its first line is `sep=` and a delimiter, as Excel writes it.
    `block_bytes` is what a reader takes in at once, far more than one row.
    """

    delimiter: str
    encoding: str
    has_separator_line: bool
    block_bytes: int


def dialect_of(path: Path, section: CsvSection | None) -> Dialect:
    """Return how a file is written, without reading more than its first line.

    Raises:
        OSError, pyarrow.ArrowException, UnicodeError: the file cannot be read.
    """
    section = section or CsvSection()
    first = _first_line(path)
    text = first.decode(section.encoding, errors="replace")
    said = re.match(r"\ufeff?\"?sep=(.)\"?\s*$", text.partition("\n")[0])
    delimiter = section.delimiter
    if delimiter is None and not uncompressed_name(path).endswith(".csv"):
        delimiter = "\t"
    if delimiter is None:
        delimiter = ";" if section.decimal == "," else ","
    return Dialect(
        delimiter=said[1] if said and said[1].isascii() else delimiter,
        encoding=section.encoding,
        has_separator_line=bool(said),
        block_bytes=max(_BLOCK, 8 * len(first)),
    )


def _first_line(path: Path) -> bytes:
    """Return the file's beginning, which holds its first line."""
    found = b""
    with opened(path) as stream:
        while b"\n" not in found and len(found) < _LONGEST_LINE:
            more = stream.read(max(_PEEK, len(found)))
            if not more:
                break
            found += more
    return found if len(found) <= _PEEK else found[: found.find(b"\n") + 1] or found

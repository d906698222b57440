"""Reads molecules from SDF files, as CTfile Formats (BIOVIA, 2020), chapter 6, defines them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from blindsum.platform.data.files.csv_dialect import opened
from blindsum.platform.data.files.csv_file import conversion
from blindsum.platform.job.csv_section import CsvSection

ENDINGS = (".sdf",)
SMILES, TITLE = "smiles", "title"

_NAMED = re.compile(r"^>.*<(.+)>")


def read_sdf(
    path: Path, texts: Collection[str], section: CsvSection | None, note: Callable[[str], None]
) -> pa.Table:
    """Read the molecules of an SDF file, one row for each.

    The column `smiles` has the structures, as RDKit writes them, empty where RDKit cannot read one.
    `title` has the first lines of the molecules, unless all are empty. Every property is a column,
    with the type that a CSV's column of the same cells would have.

    Args:
        texts: columns to read as text, even if their values look like numbers.
        note: is told what only the silo's owner may know.

    Raises:
        OSError, pyarrow.ArrowException, UnicodeError: the file cannot be read.
    """
    from rdkit import Chem

    from blindsum.platform.data.molecules import write_molecule

    smiles, rows = [], list[dict[str, str]]()
    names: dict[str, None] = {}
    encoding = (section or CsvSection()).encoding
    for lines in _records(path, encoding):
        end = next((i for i, line in enumerate(lines) if line.startswith("M  END")), len(lines))
        molecule = Chem.MolFromMolBlock("\n".join(lines[: end + 1]))
        smiles.append("" if molecule is None else write_molecule(molecule))
        properties = _properties(lines[end + 1 :])
        if lines[0].strip():
            properties.setdefault(TITLE, lines[0].strip())
        rows.append(properties)
        names.update(dict.fromkeys(properties))
    if SMILES in names:
        del names[SMILES]
        note(f"{path.name}: the property smiles was left out; that column has the structures.")
    columns = {SMILES: pa.array(smiles, pa.string())}
    columns |= {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    return _with_types(pa.table(columns), {*texts, SMILES, TITLE}, section)


def _records(path: Path, encoding: str) -> Iterator[list[str]]:
    lines: list[str] = []
    with opened(path) as stream:
        for line in io.TextIOWrapper(io.BufferedReader(stream), encoding=encoding):
            if line.startswith("$$$$"):
                yield lines or [""]
                lines = []
            else:
                lines.append(line.rstrip("\r\n"))
    if any(line.strip() for line in lines):
        yield lines  # the last mark is often missing


def _properties(lines: list[str]) -> dict[str, str]:
    """Return the data items: a line `> <NAME>`, then the value's lines up to an empty one."""
    found: dict[str, list[str]] = {}
    value: list[str] | None = None
    for line in lines:
        if value is None and (named := _NAMED.match(line)):
            value = found.setdefault(named[1], [])
            value.clear()  # a property that comes twice has its last value
        elif not line.strip():
            value = None
        elif value is not None:
            value.append(line)
    return {name: "\n".join(value) for name, value in found.items()}


def _with_types(table: pa.Table, texts: Collection[str], section: CsvSection | None) -> pa.Table:
    if not table.num_rows:
        return table
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    return pyarrow.csv.read_csv(
        pa.BufferReader(sink.getvalue()),
        read_options=pyarrow.csv.ReadOptions(block_size=max(1 << 20, sink.getvalue().size)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=conversion(section, texts),
    )

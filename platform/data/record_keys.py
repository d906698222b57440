"""A key for each record, made of its features alone: what random folds sort records by.

Equal features give equal keys, whichever program wrote the file and whatever the order of its rows
and columns. Numbers and booleans are IEEE 754 doubles with one zero and one NaN, positions of bits
are 64-bit integers, dates are YYYY-MM-DD, and text is UTF-8; a molecule is its canonical SMILES, so
that two spellings of it are one record. The label is left out: a measurement that was repeated with
another result must not lie in both folds.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.feature_kind import FeatureKind

_BLOCK_BYTES = 32 * 2**20
"""Memory of the numbers that are hashed at a time."""


def record_fractions(
    table: pa.Table, features: FeatureKind, salt: str, spellings: Sequence[str] | None = None
) -> npt.NDArray[np.float64]:
    """Return HMAC-SHA256(salt, features) of each record, as a fraction in [0, 1].

    Args:
        table: checked, with readable molecules only.
        spellings: the molecules' canonical SMILES, if they are known.
    """
    numbers, others = [], []
    for name in sorted({column.name for column in features.columns()}):
        column = table.column(name)
        if _is_number(column.type):
            numbers.append(name)
        else:
            molecules = name == features.smiles_column
            if molecules and spellings is not None:
                column, molecules = pa.chunked_array([spellings], pa.string()), False
            others.append(_encoder(column, molecules))
    found = np.empty(table.num_rows, np.float64)
    key = hmac.new(salt.encode(), digestmod="sha256")
    for start, block in _blocks(table, numbers):
        for row, values in enumerate(block, start):
            digest = key.copy()
            digest.update(values)  # its length is that of the columns, the same for all records
            for encode in others:
                digest.update(encode(row))
            found[row] = int.from_bytes(digest.digest()[:8], "big") / 2**64
    return found


def _blocks(
    table: pa.Table, numbers: Sequence[str]
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Yield the numbers of consecutive records, float64 [records, columns], and the first's row."""
    size = max(1, _BLOCK_BYTES // (8 * max(len(numbers), 1)))
    for start in range(0, table.num_rows, size):
        part = table.slice(start, size).select(list(numbers))
        block = np.empty((min(size, table.num_rows - start), len(numbers)), "<f8")
        for i, column in enumerate(part.columns):
            block[:, i] = pc.cast(column, pa.float64(), safe=False).to_numpy()
        block += 0.0  # -0.0 becomes 0.0
        block[np.isnan(block)] = np.nan  # one of the many NaNs
        yield start, block


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _encoder(column: pa.ChunkedArray, molecules: bool) -> Callable[[int], bytes]:
    """Return the function from a row to its value's bytes, which tell where they end."""

    kind = column.type
    of_doubles = pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)

    def encode(row: int) -> bytes:
        value = column[row].as_py()
        if value is None:
            return b"\xff" * 8  # no value is so long
        if isinstance(value, list):
            content = np.array(value, "<f8" if of_doubles else "<i8").tobytes()
        elif isinstance(value, bytes):
            content = value
        else:
            content = (_canonical(value) if molecules else str(value)).encode()
        return len(content).to_bytes(8, "little") + content

    return encode


def _canonical(smiles: str) -> str:
    # RDKit (0.1 s and 45 MiB) is imported only if records are molecules.
    from blindsum.platform.data.molecules import read_molecule, write_molecule

    molecule = read_molecule(smiles)
    return smiles if molecule is None else write_molecule(molecule)

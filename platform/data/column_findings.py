"""What a table has in place of the columns that a job wants, for the table's owner alone.

The findings name columns that are not in the job, and quote values. They are written at the silo
and never sent.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping

import pyarrow as pa

_MOST_LISTED = 10
_MOST_NAMES = 2000
"""Among more names, none is looked for that is merely similar: it would take too long."""


def column_findings(table: pa.Table, expected: Mapping[str, str]) -> str:
    """Return which of the table's columns are probably meant, and which values do not fit.

    Args:
        expected: what is expected of each column that is missing or does not fit, by name.
    """
    names = table.column_names
    missing = [name for name in expected if name not in set(names)]
    found = _likely(missing, [name for name in names if name not in expected])
    for name, type_ in expected.items():
        if "number" in type_ and not type_.startswith("text") and names.count(name) == 1:
            found += _not_numbers(name, table.column(name))
    if missing:
        more = f", and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
        listed = ", ".join(map(repr, names[:_MOST_LISTED]))
        found.append(f"The table's columns ({len(names)}): {listed}{more}.")
    return "\n".join(found) or "Nothing else was found."


def _likely(missing: Iterable[str], names: list[str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_folded(name), []).append(name)
    found = []
    for name in missing:
        same = alike.get(_folded(name))
        if same is None and len(names) <= _MOST_NAMES:
            same = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        if same:
            shown = " and ".join(map(repr, same))
            found.append(f"Instead of {name!r} the table has {shown}: probably the one meant.")
        if len(found) == _MOST_LISTED:
            break
    return found


def _folded(name: str) -> str:
    """Return the name without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold() or name


def _not_numbers(name: str, column: pa.ChunkedArray) -> list[str]:
    """Return the first cells of a text column that are not numbers."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return []
    texts = (text for chunk in column.chunks for text in chunk.to_pylist())
    odd = ((row, text) for row, text in enumerate(texts, 1) if not _is_number(text))
    cells = [f"row {row} has {text!r}" for row, text in itertools.islice(odd, _MOST_LISTED)]
    listed = "; ".join(cells) or "all of its cells are numbers, stored as text"
    return [f"Column {name!r} is not of numbers (rows from 1, below a header): {listed}."]


def _is_number(text: str | None) -> bool:
    try:
        return text is None or math.isfinite(float(text.replace("_", "-")))
    except ValueError:
        return False

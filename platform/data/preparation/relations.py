"""Relations of measurements: `<`, `=`, `>` and other spellings that databases export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from blindsum.platform.errors import DataError

ABOUT = "about a number (~)"
"""The reason for dropping a measurement that is neither exact nor a bound."""

_BELOW, _EXACT, _ABOVE, _ABOUT = -1.0, 0.0, 1.0, float("nan")

_SIDES = {
    "": _EXACT,
    "=": _EXACT,
    "==": _EXACT,
    "<": _BELOW,
    "<<": _BELOW,
    "<<<": _BELOW,
    "<=": _BELOW,
    "=<": _BELOW,
    "≤": _BELOW,
    ">": _ABOVE,
    ">>": _ABOVE,
    ">>>": _ABOVE,
    ">=": _ABOVE,
    "=>": _ABOVE,
    "≥": _ABOVE,
    "~": _ABOUT,
    "≈": _ABOUT,
    "~=": _ABOUT,
}
MOST_SHOWN = 10
"""How many rows an error names. It stays at the silo: the silo's owner prepares its tables."""

_INCLUSIVE = ("<=", "=<", "≤", ">=", "=>", "≥")


def sides(column: pd.Series | None, rows: int, path: Path) -> dict[str, np.ndarray]:
    """Return what the relations say of each number; quotes around a relation are ignored.

    Returns:
        `side`: -1, 0 or 1 where the true value lies below, at or above the number, NaN where it is
        about the number. `inclusive`: whether the true value may equal the bound.

    Raises:
        DataError: a relation is unknown.
    """
    if column is None:
        return {"side": np.zeros(rows), "inclusive": np.zeros(rows, np.bool_)}
    named = column.astype("category").cat
    texts = [str(one).strip().strip("'\"").strip() for one in named.categories] + [""]
    codes = named.codes.to_numpy()  # -1 where missing, which takes the last text
    unknown = np.array([text not in _SIDES for text in texts])
    if unknown.any():
        wrong = np.flatnonzero(unknown[codes]) + 1
        shown = ", ".join(map(str, wrong[:MOST_SHOWN])) + (", ..." * (len(wrong) > MOST_SHOWN))
        raise DataError(
            f"{path.name}: column '{column.name}' has qualifiers other than <, <<, <=, =, >=, >>, "
            f"> and ~ (rows {shown})",
            "Correct them, or leave them empty.",
        )
    return {
        "side": np.array([_SIDES[text] for text in texts])[codes],
        "inclusive": np.array([text in _INCLUSIVE for text in texts])[codes],
    }

"""Measurements in chunks of whole structures, so that memory does not grow with what is made of
them: a structure's labels follow from its own measurements alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

CHUNK = 500_000
"""About so many measurements are combined at a time."""


def as_categories(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements with the columns of texts as categories."""
    texts = [n for n in ("compound", "assay", "unit") if n in measured]
    plain = [n for n in texts if not isinstance(measured[n].dtype, pd.CategoricalDtype)]
    return measured.astype(dict.fromkeys(plain, "category"))


def structure_of_each(measured: pd.DataFrame, compounds: pd.DataFrame) -> pd.Categorical:
    """Return each measurement's structure, missing if its compound has none.

    Args:
        measured: column compound, as categories.
        compounds: columns compound, each once, and structure.
    """
    structures = compounds["structure"].astype("category")
    of_compound = pd.Series(structures.cat.codes.to_numpy(), index=compounds["compound"])
    named = measured["compound"].cat
    codes = of_compound.reindex(named.categories).fillna(-1).to_numpy(np.int32)
    # The codes of missing names, -1, take the last one.
    found = np.append(codes, np.int32(-1))[named.codes.to_numpy()]
    return pd.Categorical.from_codes(found, dtype=structures.dtype)


def by_structure(measured: pd.DataFrame, size: int = CHUNK) -> Iterator[pd.DataFrame]:
    """Yield the measurements in chunks of whole structures, each of about `size` or less; at least
    one. A chunk has structures as texts.

    Args:
        measured: column structure, as categories, none missing.
    """
    codes = measured["structure"].cat.codes.to_numpy()
    order, start = np.argsort(codes, kind="stable"), 0
    while True:
        end = min(start + size, len(order))
        if end < len(order):
            # The end of the last structure in it: it has the others of its structure too.
            end = int(np.searchsorted(codes, codes[order[end - 1]], side="right", sorter=order))
        chunk = measured.take(order[start:end])
        yield chunk.assign(structure=chunk["structure"].astype(object).to_numpy())
        start = end
        if start >= len(order):
            return

"""Columns of dates, of times, or of text in the ISO form."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def as_dates(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates, with null for a gap; text unchanged if some of it is no date. A time with a
    zone counts by its date in UTC."""
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_date(kind):
        return column.cast(pa.date32())
    if pa.types.is_timestamp(kind):
        days = column.to_numpy().astype("datetime64[D]")
        return pa.chunked_array([pa.array(days, pa.date32())])
    texts = column.unique().to_pylist()
    dates = [date_of(text) for text in texts]
    if any(one is None for one, text in zip(dates, texts, strict=True) if not is_empty(text)):
        return column
    at = pc.index_in(column, pa.array(texts, kind))
    return pc.take(pa.array(dates, pa.date32()), at)


def no_dates(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return which rows of what `as_dates` returned have text that is no date, bool [records]."""
    if pa.types.is_date(column.type):
        return np.zeros(len(column), np.bool_)
    texts = column.to_pylist()
    return np.array([date_of(text) is None and not is_empty(text) for text in texts], np.bool_)


def is_empty(text: str | None) -> bool:
    """Return whether a text is a gap."""
    return not (text or "").strip()


def date_of(text: str | None) -> date | None:
    """Return the date of a text in the ISO form, with or without a time; None if it is none."""
    try:
        found = datetime.fromisoformat((text or "").strip())
        return (found if found.tzinfo is None else found.astimezone(UTC)).date()
    except (ValueError, OverflowError):
        return None

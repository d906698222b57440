"""Predictions for data frames."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow as pa

from blindsum.platform.errors import DataError
from blindsum.platform.prediction.predictor import REASON, Predictor


def predict_frame(predictor: Predictor, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row of predictions for each record, with the same index, as `Predictor.predict`.

    A reason that is not there is None: null in JSON, not NaN.

    Raises:
        DataError: a column is missing, there twice, or has a type that does not fit.
    """
    return predict_records(predictor, as_table(frame, predictor.inputs)).set_index(frame.index)


def as_table(frame: pd.DataFrame, names: Collection[str]) -> pa.Table:
    """Return those of the columns that a frame has, without its index.

    Raises:
        DataError: a column is there twice, or mixes types.
    """
    known = [name for name in names if name in frame.columns]
    try:
        return pa.Table.from_pandas(frame[known], preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError):
        raise DataError(
            "an input column mixes types, or is there twice",
            "Give each column once, with numbers only or text only.",
        ) from None


def predict_records(predictor: Predictor, table: pa.Table) -> pd.DataFrame:
    """Return a row of predictions for each record of an Arrow table. Raises as `predict_frame`."""
    found = predictor.predict(table, Path("the input")).to_pandas()
    reason = found[REASON].astype(object)
    return found.assign(**{REASON: reason.where(reason.notna(), None)})

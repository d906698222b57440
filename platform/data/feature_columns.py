"""Features made from one column each: a number, a date, or categories.

Which value a gap counts as, what the categories are and how numbers are scaled stands in the job,
the same for every silo: nothing is computed from data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.columns import (
    CATEGORY_NUMBER,
    CATEGORY_TEXT,
    DATE,
    FEATURE,
    FEATURE_OR_EMPTY,
    GAPS,
    Column,
    as_held,
    missing_or_infinite,
)
from blindsum.platform.data.dates import as_dates, is_empty, no_dates
from blindsum.platform.data.rejected_rows import Rejected
from blindsum.platform.data.scaling import scaled
from blindsum.platform.job.features_section import FeatureColumn
from blindsum.platform.job.labels_section import as_written

Rows = npt.NDArray[np.bool_]

GAPS_MEND = (
    "Fill or remove those records, or say in the job what a gap counts as (data.features.columns."
    "NAME.missing)."
)


@dataclass(frozen=True, kw_only=True)
class ColumnFeature(ABC):
    """The features made from one column."""

    name: str
    section: FeatureColumn

    @property
    @abstractmethod
    def column(self) -> Column:
        """The column, with the types that it may have."""

    @property
    def is_scaled(self) -> bool:
        """Whether the first feature is a scaled number; all others are 0 or 1."""
        return True

    @property
    def keeps_gaps(self) -> bool:
        """Whether a gap stays one, NaN. The column then has one feature."""
        return self.section.missing is not None and self.section.missing.keep

    @property
    def features(self) -> tuple[str, ...]:
        """The features' names, the indicator of gaps last."""
        has_indicator = self.section.missing is not None and self.section.missing.indicator
        return (*self._of_values(), *([f"{self.name} (missing)"] if has_indicator else []))

    def _of_values(self) -> tuple[str, ...]:
        return (self.name,)

    def uniform(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the column in one form, whichever program wrote it: only then are fingerprints and
        random folds the same. Values that break a rule of the job stay as they are."""
        return column

    @abstractmethod
    def rejected(self, column: pa.ChunkedArray) -> list[Rejected]:
        """Return the rows that break a rule of the job."""

    @abstractmethod
    def fill(self, out: npt.NDArray[np.float32], column: pa.ChunkedArray) -> None:
        """Write the features of a column without rejected rows into `out` [records, features],
        which holds zeros."""

    def _fill_scaled(
        self, out: npt.NDArray[np.float32], values: npt.NDArray[np.float64], gaps: Rows, fill: float
    ) -> None:
        fill = math.nan if self.keeps_gaps else fill
        out[:, 0] = scaled(np.where(gaps, fill, values), self.section)
        self._fill_indicator(out, gaps)

    def _fill_indicator(self, out: npt.NDArray[np.float32], gaps: Rows) -> None:
        if self.section.missing is not None and self.section.missing.indicator:
            out[:, -1] = gaps

    def _missing(self, rows: Rows) -> Rejected:
        return Rejected(rows=rows, column=self.name, fault=GAPS, mend=GAPS_MEND)


class Number(ColumnFeature):
    """A scaled number."""

    @property
    def column(self) -> Column:
        """A column of numbers."""
        return Column(name=self.name, type=FEATURE_OR_EMPTY if self.section.missing else FEATURE)

    def uniform(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return a column without any value as one of numbers."""
        return column.cast(pa.float64()) if pa.types.is_null(column.type) else column

    def rejected(self, column: pa.ChunkedArray) -> list[Rejected]:
        """Return the rows with gaps, if the job does not say what they count as, and with infinite
        values."""
        if self.section.missing is None:
            rows = missing_or_infinite(column)
            return [] if rows is None else [self._missing(rows)]
        if not pa.types.is_floating(column.type):
            return []
        infinite = np.isinf(column.to_numpy())
        if not infinite.any():
            return []
        return [
            Rejected(
                rows=infinite,
                column=self.name,
                fault="infinite values",
                mend="Correct or remove those records.",
            )
        ]

    def fill(self, out: npt.NDArray[np.float32], column: pa.ChunkedArray) -> None:
        """Scale the numbers."""
        values = column.to_numpy().astype(np.float64)
        if self.section.missing is None:
            out[:, 0] = scaled(values, self.section)
            return
        codes = as_held([float(one) for one in self.section.missing.codes], column.type)
        gaps = np.isnan(values) | np.isin(values, codes)
        self._fill_scaled(out, values, gaps, float(self.section.missing.value or 0.0))


class Date(ColumnFeature):
    """A scaled number of days since a public date. A time with a zone counts by its date in UTC."""

    @property
    def column(self) -> Column:
        """A column of dates, of times, or of text in the ISO form."""
        return Column(name=self.name, type=DATE)

    def uniform(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return dates, with null for a gap; text unchanged if some of it is no date."""
        return as_dates(column)

    def rejected(self, column: pa.ChunkedArray) -> list[Rejected]:
        """Return the rows with gaps, if the job does not say what they count as, and with text that
        is no date."""
        found = []
        gaps, odd = np.array(pc.is_null(column), np.bool_), no_dates(column)
        if not pa.types.is_date(column.type):
            gaps = np.array([is_empty(text) for text in column.to_pylist()])
        if gaps.any() and self.section.missing is None:
            found.append(self._missing(gaps))
        if odd.any():
            found.append(
                Rejected(
                    rows=odd,
                    column=self.name,
                    fault="text that is not a date",
                    mend="Write dates as YYYY-MM-DD.",
                )
            )
        return found

    def fill(self, out: npt.NDArray[np.float32], column: pa.ChunkedArray) -> None:
        """Scale the days."""
        if self.section.date is None:
            raise ValueError(f"the job does not say since when {self.name} counts days")
        since = date.fromisoformat(self.section.date.since)
        gaps = np.array(pc.is_null(column), np.bool_)
        days = column.cast(pa.int32()).fill_null(0).to_numpy() - float(_days(since))
        if self.section.missing is None:
            out[:, 0] = scaled(days, self.section)
            return
        codes = [float(_days_since(since, code)) for code in self.section.missing.codes]
        gaps |= np.isin(days, codes)
        value = self.section.missing.value
        fill = 0.0 if value is None else _days_since(since, value)
        self._fill_scaled(out, days, gaps, fill)


def _days(one: date) -> int:
    return (one - date(1970, 1, 1)).days


def _days_since(since: date, text: object) -> int:
    return (date.fromisoformat(str(text)) - since).days


class Categories(ColumnFeature):
    """A 0 or 1 for each category, for other values if the job allows them, and for gaps."""

    @property
    def column(self) -> Column:
        """A column of text, or of whole numbers, or of true and false."""
        of_text = isinstance(self.section.categories[0], str)
        return Column(name=self.name, type=CATEGORY_TEXT if of_text else CATEGORY_NUMBER)

    @property
    def is_scaled(self) -> bool:
        """No feature is."""
        return False

    def _of_values(self) -> tuple[str, ...]:
        names = [f"{self.name}={as_written(one)}" for one in self.section.categories]
        return (*names, *([f"{self.name} (other)"] if self.section.other else []))

    def uniform(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the column with null for empty text that is no category."""
        of_text = isinstance(self.section.categories[0], str)
        if pa.types.is_null(column.type):
            return column.cast(pa.string() if of_text else pa.float64())
        if not of_text or "" in self.section.categories:
            return column
        empty = pc.equal(pc.binary_length(column), 0)
        if not pc.any(empty).as_py():
            return column
        return pc.if_else(empty, pa.scalar(None, column.type), column)

    def rejected(self, column: pa.ChunkedArray) -> list[Rejected]:
        """Return the rows with gaps, if the job does not say what they count as, and with values
        beyond the categories, if it does not say other."""
        found = []
        positions, gaps = self._positions(column)
        if gaps.any() and self.section.missing is None:
            found.append(self._missing(gaps))
        odd = (positions < 0) & ~gaps
        if odd.any() and not self.section.other:
            found.append(
                Rejected(
                    rows=odd,
                    column=self.name,
                    fault="values that are not among its categories",
                    mend="Correct those records; or name the values in the job's categories, or "
                    "set other: true beside them.",
                    reason="not one of its categories",
                )
            )
        return found

    def fill(self, out: npt.NDArray[np.float32], column: pa.ChunkedArray) -> None:
        """Write a 1 at each record's category."""
        positions, gaps = self._positions(column)
        missing, categories = self.section.missing, self.section.categories
        if self.section.other:
            positions = np.where((positions < 0) & ~gaps, len(categories), positions)
        if missing is not None and missing.value is not None:
            values: list[object] = list(categories)
            positions = np.where(gaps, values.index(missing.value), positions)
        rows = np.flatnonzero(positions >= 0)
        out[rows, positions[rows]] = 1.0
        self._fill_indicator(out, gaps)

    def _positions(self, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Rows]:
        """Return each record's position among the categories, -1 if it has none; and the gaps."""
        kind = column.type
        if not isinstance(self.section.categories[0], str):
            kind = pa.float64()  # in which all categories are exact
            column = pc.cast(column, kind, safe=False)
        values = [one if isinstance(one, str) else float(one) for one in self.section.categories]
        found = pc.index_in(column, pa.array(values, kind)).fill_null(-1)
        gaps = pc.is_null(column, nan_is_null=True)
        if self.section.missing and self.section.missing.codes:
            codes = pa.array(self.section.missing.codes, kind)
            gaps = pc.or_(gaps, pc.is_in(column, codes))
        return found.to_numpy().astype(np.int64), np.array(gaps, np.bool_)


def column_feature(name: str, section: FeatureColumn) -> ColumnFeature:
    """Return the features of one column, as the job describes it."""
    kind = Date if section.date else Categories if section.categories else Number
    return kind(name=name, section=section)

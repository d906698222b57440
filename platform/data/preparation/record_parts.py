"""The prepared table, made part by part: a column for each of thousands of assays needs gigabytes
for a million records, most of them for labels that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.preparation.label_columns import (
    PlacedLabels,
    label_columns,
    records_at_once,
)
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import COMPOUND, FOLD, AssayTask, Recipe
from blindsum.platform.data.preparation.secret import Secret

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PreparedRecords:
    """The records of a prepared table: a structure with labels each. Private to the silo.

    Args:
        labels: the result of `blindsum.platform.data.preparation.assemble.labels_of`.
        names: columns structure, name.
        features: a stage's table, whose column `text` is the structure; its order is the table's.
        standard: the table of `blindsum.platform.data.preparation.stages.Standardise`.
        tasks: the shared tasks, then the silo's private tasks that have labels.
    """

    labels: pd.DataFrame
    names: pd.DataFrame
    features: pa.Table
    standard: pa.Table
    recipe: Recipe
    tasks: Mapping[str, AssayTask]
    secret: Secret

    def __repr__(self) -> str:
        return "PreparedRecords(private)"

    def parts(self) -> Iterator[pa.Table]:
        """Yield the table in parts, at least one, of which each needs about PART_BYTES."""
        size = records_at_once(self._numeric)
        for start in range(0, max(len(self.features), 1), size):
            yield self._part(start, min(start + size, len(self.features)))

    def _part(self, start: int, stop: int) -> pa.Table:
        features = self.features.slice(start, stop - start).combine_chunks()
        columns: dict[str, pa.Array] = {
            COMPOUND: self._names_of(start, stop),
            FOLD: pa.array(self._folds[start:stop], pa.int16()),
        }
        columns |= prepared_features_of(self.recipe.features).columns(features, self.secret)
        of_labels = self._labels_of(start, stop)
        return pa.table(columns | of_labels)

    @property
    def _numeric(self) -> dict[str, bool]:
        return {name: task.kind == "regression" for name, task in self.tasks.items()}

    def _labels_of(self, start: int, stop: int) -> dict[str, pa.Array]:
        places, order = self._labels_by_place
        chosen = order[slice(*np.searchsorted(places, [start, stop], sorter=order))]
        found, named = self.labels.iloc[chosen], self.labels["task"].cat
        numbers = {name: i for i, name in enumerate(self.tasks)}
        of_category = np.array([numbers.get(str(n), -1) for n in named.categories], np.int64)
        labels = PlacedLabels(
            records=places[chosen] - start,
            tasks=of_category[named.codes.to_numpy()[chosen]],
            values=found["value"].to_numpy(np.float32),
            sides=found["side"].to_numpy(np.float32),
        )
        return label_columns(self._numeric, labels, stop - start)

    @cached_property
    def _labels_by_place(self) -> tuple[Places, Places]:
        """The record of each label, and the labels in the order of their records."""
        named = self.labels["structure"].cat
        places = self._places(pd.Series(named.categories))[named.codes.to_numpy()]
        return places, np.argsort(places, kind="stable")

    @cached_property
    def _folds(self) -> npt.NDArray[np.int64]:
        where = pc.index_in(self._structures, value_set=_one(self.standard["structure"]))
        scaffolds = self.standard["scaffold"].take(where).dictionary_encode().unify_dictionaries()
        joined = _one(scaffolds)
        count = self.recipe.folds.count
        known = [self.secret.fold(text, count) for text in joined.dictionary.to_pylist()]
        folds: Places = np.array(known, np.int64)[joined.indices.to_numpy()]
        return folds

    def _names_of(self, start: int, stop: int) -> pa.Array:
        places, order, names = self._names_by_place
        ends = np.searchsorted(places, np.arange(start, stop + 1), sorter=order)
        chosen = names.take(pa.array(order[ends[0] : ends[-1]]))
        offsets = pa.array(ends - ends[0], pa.int32())
        return pa.ListArray.from_arrays(offsets, _one(chosen))

    @cached_property
    def _names_by_place(self) -> tuple[Places, Places, pa.ChunkedArray]:
        places = self._places(self.names["structure"])
        names = pa.chunked_array([pa.array(self.names["name"], pa.string())])
        return places, np.argsort(places, kind="stable"), names

    @cached_property
    def _structures(self) -> pa.Array:
        return _one(self.features["text"])

    def _places(self, structures: pd.Series) -> Places:
        """Return the records of structures, -1 for those that are no record."""
        found = pc.index_in(pa.array(structures, pa.string()), value_set=self._structures)
        places: Places = found.fill_null(-1).to_numpy().astype(np.int64)
        return places


def _one(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece."""
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)

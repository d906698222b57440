"""Features from a function of the job's own: a dataset of tensors, which the job declares.

The function gets many records at once, but what it makes of one may depend on that record alone:
differential privacy protects a record because nothing of it is in the features of others. So a few
records of every part of a table are made a second time, among others than before. Where that
changes them, the table is refused.

Errors name tensors and types, never a value: what the function raises may quote records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from blindsum.platform.data.columns import (
    BYTES,
    FEATURE,
    INTEGER,
    LISTS_OF_NUMBERS,
    TEXT_ONLY,
    Column,
)
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.errors import DataError
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.model_section import Input
from blindsum.platform.job.own_code import FEATURES, own_function
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.tensors import TensorSection

_TYPES = {
    "number": (FEATURE, pa.float64()),
    "integer": (INTEGER, pa.int64()),
    "text": (TEXT_ONLY, pa.string()),
    "bytes": (BYTES, pa.large_binary()),
    "numbers": (LISTS_OF_NUMBERS, pa.list_(pa.float64())),
}
AT_A_TIME_VALUES = 2**24
"""The most values of records that are made at a time: 64 MB."""

MOST_AT_A_TIME = 20_000
SAMPLE = 8
"""So many records at most are made a second time."""

_TOLD_EVERY = 256
_ONLY = ""
"""Stands for the name of a record's only tensor."""

_MEND = (
    "Each item must follow from its own row: no random numbers, no statistics of the table, no "
    "state that one row leaves for the next."
)


@dataclass(frozen=True, kw_only=True)
class DatasetFeatures(FeatureKind):
    """`OwnFeatures`."""

    section: OwnFeatures

    @property
    def width(self) -> int:
        """The number of values of a record's row."""
        return self.section.width

    @property
    def shape(self) -> Input:
        """The tensors' names and shapes, or the shape of the only one."""
        section = self.section
        return section.tensors or tuple(section.shape)  # type: ignore[arg-type]

    @property
    def most_records(self) -> int:
        """Records may be large."""
        return max(1, min(MOST_AT_A_TIME, AT_A_TIME_VALUES // self.width))

    def columns(self) -> list[Column]:
        """Return the columns, with the types that the job states for them."""
        of = self.section.columns.items()
        return [Column(name=name, type=_TYPES[kind][0]) for name, kind in of]

    def uniform(self, table: pa.Table, folder: Any = None) -> pa.Table:
        """Return the table with each column of the one type that the function gets."""
        for name, kind in self.section.columns.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table.column(at).cast(_TYPES[kind][1]))
        return table

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Let the function make the tensors. Records whose tensors are not as declared have none.

        Raises:
            ModelError: the function cannot be imported.
            DataError: it fails, returns no dataset with an item for each row, or what it makes of
                a record depends on chance or on other records.
        """
        chosen = table.select(list(self.section.columns)).combine_chunks()
        made, reasons = self._rows(chosen, computing)
        self._require_own(chosen, made, reasons)
        usable = np.ones(len(made), np.bool_)
        usable[list(reasons)] = False
        return Featurised(features=made[usable], usable=usable, reasons=reasons)

    def _require_own(
        self, table: pa.Table, made: npt.NDArray[np.float32], reasons: Mapping[int, str]
    ) -> None:
        """Raise DataError unless a few records are the same, made without the others."""
        every = np.arange(0, len(made), 2)
        some = every[:: max(1, -(-len(every) // SAMPLE))][::-1]
        again, why = self._rows(table.take(pa.array(some)))
        rows = some.tolist()
        same = [reasons.get(row) == why.get(i) for i, row in enumerate(rows)]
        if not all(same) or not np.allclose(again, made[rows], rtol=1e-5, atol=1e-6):
            raise self._error("makes other tensors of the same records a second time", _MEND)

    def _rows(
        self, table: pa.Table, computing: Computing = ALONE
    ) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
        """Return a row for each record, zeros for one without tensors; and why it has none."""
        dataset, count = self._dataset(table), table.num_rows
        made, reasons = np.zeros((count, self.width), np.float32), dict[int, str]()
        for i in range(count):
            try:
                reason = self._fill(made[i], dataset[i])
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
                reason = f"the dataset's item fails with {type(error).__name__}"
            if reason:
                made[i], reasons[i] = 0.0, reason
            if i % _TOLD_EVERY == 0:
                computing.told(i / count)
        return made, reasons

    def _dataset(self, table: pa.Table) -> Dataset[Any]:
        function = own_function(FEATURES, self.section.function)
        try:
            dataset = function(table)
            length = len(dataset)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
            raise self._error(
                f"failed with {type(error).__name__}",
                "Call it with a table of your own that has the columns and types of "
                "data.features.columns.",
            ) from None
        if not isinstance(dataset, Dataset):
            raise self._error(
                f"returned {type(dataset).__name__}", "Return a torch.utils.data.Dataset."
            )
        if length != table.num_rows:
            raise self._error(
                "returned a dataset with another number of items than the table has rows",
                "It needs one item for each row, in their order.",
            )
        return dataset

    def _error(self, what: str, mend: str) -> DataError:
        return DataError(f"{FEATURES} {self.section.function!r} {what}", mend)

    def _fill(self, row: npt.NDArray[np.float32], item: Any) -> str:
        """Write a record's tensors into its row; return what is wrong with them, if anything is."""
        declared = self.section.shape
        if not isinstance(declared, dict):
            declared, item = {_ONLY: TensorSection(shape=declared)}, {_ONLY: item}
        if not isinstance(item, Mapping) or set(item) != set(declared):
            return "its item is not a dict of the declared tensors"
        at = 0
        for name, one in declared.items():
            if reason := _unfit(item[name], one):
                return f"tensor {name!r} {reason}" if name else f"its tensor {reason}"
            values = item[name].detach().numpy()
            whole = np.zeros(one.shape, np.float32)
            whole[tuple(slice(size) for size in values.shape)] = values
            end = at + one.values
            row[at:end] = whole.reshape(-1)
            at = end + len(one.ragged)
            row[end:at] = [values.shape[dimension] for dimension in one.ragged]
        return ""


def _unfit(found: Any, declared: TensorSection) -> str:
    """Return what is wrong with a tensor, without its values; empty if nothing is."""
    if not isinstance(found, torch.Tensor):
        return "is no torch.Tensor"
    if found.dtype != getattr(torch, declared.dtype):
        return f"is not {declared.dtype}"
    if found.dim() != len(declared.shape):
        return f"has not {len(declared.shape)} dimensions"
    for dimension, (size, most) in enumerate(zip(found.shape, declared.shape, strict=True)):
        if size > most if dimension in declared.ragged else size != most:
            return "has not the declared shape"
    if declared.below is None:
        return "" if bool(found.isfinite().all()) else "has values that are not finite"
    inside = bool(((found >= 0) & (found < declared.below)).all())
    return "" if inside else f"has values outside 0 to {declared.below - 1}"

"""Tensors that a record consists of, as a job declares them: the same in every silo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.section import Section, unless

Size = Annotated[int, Field(ge=1, le=2**20)]

EXACT = 2**24
"""Whole numbers below have an exact float32, in which all features are kept."""


class TensorSection(Section):
    """One tensor of a record, without the dimension that counts records."""

    shape: list[Size] = Field(min_length=1, max_length=6)
    dtype: Literal["float32", "int64"] = "float32"
    below: int | None = Field(
        None, ge=2, le=EXACT, exclude_if=unless(None), description="For int64: 0 to below - 1."
    )
    ragged: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        exclude_if=unless([]),
        description="Dimensions, from 0, whose size is the most that a record may have.",
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> TensorSection:
        if (self.dtype == "int64") != (self.below is not None):
            raise ValueError("below goes with dtype int64, which needs it")
        if any(one >= len(self.shape) for one in self.ragged):
            raise ValueError(f"ragged names a dimension beyond {len(self.shape) - 1}")
        if self.ragged != sorted(set(self.ragged)):
            raise ValueError("ragged names dimensions in ascending order, each once")
        return self

    @property
    def values(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    @property
    def most(self) -> list[int]:
        """The greatest size of each ragged dimension."""
        return [self.shape[one] for one in self.ragged]


@dataclass(frozen=True)
class Tensors:
    """Records that are tensors by name. A model gets a dict of them, and for each one with ragged
    dimensions `NAME_mask`, bool: true where the record has values.

    Records are kept as float32 rows: of each tensor its values, zero where it ends early, and then
    its sizes along its ragged dimensions.
    """

    of: Mapping[str, TensorSection]

    @property
    def values(self) -> int:
        """The number of values of a record's row."""
        return sum(one.values + len(one.ragged) for one in self.of.values())

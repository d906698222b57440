"""Features that a job's own function makes of a table's columns."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from blindsum.platform.job.features_section import FeatureSection
from blindsum.platform.job.section import FunctionName
from blindsum.platform.job.tensors import Size, Tensors, TensorSection

MAX_VALUES = 2**20
"""Of one record."""

TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
ColumnKind = Literal["number", "integer", "text", "bytes", "numbers"]
"""`numbers` are lists of numbers. They reach the function as float64, int64, string, large_binary
and lists of float64."""


class OwnFeatures(FeatureSection):
    """Tensors of each record, from a function of the job's own: `function(table)` gets a
    `pyarrow.Table` of the columns, and returns a `torch.utils.data.Dataset` with an item for each
    row: a tensor, or a dict of tensors."""

    kind: Literal["factory"]
    function: FunctionName
    columns: dict[str, ColumnKind] = Field(min_length=1, max_length=1000)
    shape: list[Size] | dict[TensorName, TensorSection] = Field(
        min_length=1,
        max_length=64,
        description="Of a record's tensor, float32; or of each tensor by its name.",
    )

    @model_validator(mode="after")
    def _is_not_too_large(self) -> OwnFeatures:
        if isinstance(self.shape, dict):
            masks = {f"{name}_mask" for name, one in self.shape.items() if one.ragged}
            if clash := sorted(masks & set(self.shape)):
                raise ValueError(f"{clash[0]!r} is the name of a mask: rename that tensor")
        if self.width > MAX_VALUES:
            raise ValueError(f"a record has more than {MAX_VALUES:,} values: make it smaller")
        return self

    @property
    def inputs(self) -> set[str]:
        """The columns."""
        return set(self.columns)

    @property
    def tensors(self) -> Tensors | None:
        """A record's tensors; None if it is one without a name."""
        return Tensors(self.shape) if isinstance(self.shape, dict) else None

    @property
    def width(self) -> int:
        """The number of values of a record."""
        return Tensors(self.shape).values if isinstance(self.shape, dict) else math.prod(self.shape)

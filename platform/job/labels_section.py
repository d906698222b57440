"""The labels of a job: one column of classes, or many tasks with gaps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from blindsum.platform.job.section import Positive, Section


class Target(Section):
    """A column of class labels."""

    column: str
    classes: list[str | int] = Field(min_length=2, max_length=1000)

    @field_validator("classes")
    @classmethod
    def _alike_and_distinct(cls, classes: list[str | int]) -> list[str | int]:
        if len({type(c) for c in classes}) > 1:
            raise ValueError("classes must be all text or all integers")
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes


class Task(Section):
    """One assay: a column of labels, empty where a record was not measured.

    A binary column holds 0 and 1, and the model outputs a logit. A regression column holds numbers,
    and the model outputs (y - center) / scale. The qualifier's column (`<`, `=`, `>`) says whether
    the true value is below, equal to or above the measured value.
    """

    kind: Literal["binary", "regression"] = "binary"
    weight: Positive = 1.0
    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0
    qualifier: str | None = Field(None, description="Column of <, = and >; empty is =.")

    @model_validator(mode="after")
    def _only_numbers_are_scaled(self) -> Task:
        if self.kind == "binary" and (self.center, self.scale, self.qualifier) != (0.0, 1.0, None):
            raise ValueError("center, scale and qualifier belong to regression tasks only")
        return self


Tasks = dict[str, Task]
"""Tasks by the name of their column, in the order of the model's outputs."""

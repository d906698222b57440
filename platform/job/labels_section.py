"""The labels of a job: one column of classes, one number, or many tasks with gaps."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from blindsum.platform.job.section import Name, Positive, Section, unless

Value = str | bool | int | float
"""A value as a label's column holds it. True is 1, and 1.0 is 1."""


def as_written(value: Value) -> str:
    """Return a value as YAML writes it, without quotes: true, 1, ill."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Target(Section):
    """A column of class labels; or, without classes, a column of numbers to predict.

    A column of numbers is one regression task: `DataSection` stores it under `tasks`.
    """

    column: str
    classes: list[str | int | bool] = Field([], max_length=1000)
    class_weights: dict[str, Positive] = Field(
        {},
        exclude_if=unless({}),
        description="Factor of the loss by class: public constants. Default 1.",
    )
    focal: float = Field(
        0.0,
        ge=0,
        le=10,
        exclude_if=unless(0.0),
        description="Focal loss: records that are right already count less; 2 is usual.",
    )
    center: float | None = Field(None, allow_inf_nan=False, exclude_if=unless(None))
    scale: Positive | None = Field(None, exclude_if=unless(None))
    qualifier: str | None = Field(
        None, exclude_if=unless(None), description="Column of <, = and >; empty is =."
    )
    missing: Value | None = Field(
        None, exclude_if=unless(None), description="A value that stands for no label, as -1."
    )

    @field_validator("classes")
    @classmethod
    def _alike_and_distinct(cls, classes: list[str | int | bool]) -> list[str | int | bool]:
        if len(classes) < 2:
            raise ValueError("list should have at least 2 items")
        if len({type(c) for c in classes}) > 1:
            raise ValueError("classes must be all text or all integers, or be true and false")
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @field_validator("class_weights", mode="before")
    @classmethod
    def _by_the_text_of_the_class(cls, weights: Any) -> Any:
        """Make keys text, as they are in JSON: every silo must compute the same digest."""
        if not isinstance(weights, dict):
            return weights
        return {
            as_written(key) if isinstance(key, str | bool | int) else key: weight
            for key, weight in weights.items()
        }

    @model_validator(mode="after")
    def _classes_or_a_number(self) -> Target:
        if self.classes:
            if (self.center, self.scale, self.qualifier) != (None, None, None):
                raise ValueError(
                    "center, scale and qualifier belong to a number: leave out classes"
                )
            if unknown := set(self.class_weights) - set(map(as_written, self.classes)):
                raise ValueError(
                    f"class_weights names {min(unknown)!r}, which is not among the classes "
                    "(without quotes, YAML reads yes and no as true and false)"
                )
        elif self.class_weights or self.focal:
            raise ValueError("class_weights and focal belong to classes")
        elif self.center is None and self.scale is None:
            raise ValueError(
                "give classes, or center and scale (public constants) to predict a number"
            )
        if self.missing is not None:
            known: list[Any] = list(self.classes)
            _require_alike([self.missing, *(known or [0.0])], distinct=bool(known))
        return self

    @property
    def weights(self) -> list[float]:
        """The factor of each class's loss, in the order of the classes."""
        return [self.class_weights.get(as_written(c), 1.0) for c in self.classes]

    def as_task(self) -> Task:
        """Return a target without classes as a task."""
        return Task(
            kind="regression",
            center=self.center or 0.0,
            scale=1.0 if self.scale is None else self.scale,
            qualifier=self.qualifier,
            missing=self.missing,
        )


class Task(Section):
    """One assay: a column of labels, empty where a record was not measured.

    A binary column holds the values `positive` and `negative`, and the model outputs a logit. A
    regression column holds numbers, and the model outputs (y - center) / scale. The qualifier's
    column (`<`, `=`, `>`) says whether the true value is below, equal to or above the measured
    value.
    """

    kind: Literal["binary", "regression"] = "binary"
    weight: Positive = 1.0
    positive: Value = Field(
        1, exclude_if=unless(1), description="The value of a positive, as 2 or yes."
    )
    negative: Value = Field(
        0, exclude_if=unless(0), description="The value of a negative, as 1, -1 or no."
    )
    positive_weight: Positive = Field(
        1.0, exclude_if=unless(1.0), description="Factor of the loss of positives."
    )
    focal: float = Field(0.0, ge=0, le=10, exclude_if=unless(0.0), description="As of data.target.")
    missing: Value | None = Field(
        None, exclude_if=unless(None), description="A value that stands for no label, as -1."
    )
    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0
    qualifier: str | None = Field(None, description="Column of <, = and >; empty is =.")
    group: Name | None = Field(
        None,
        exclude_if=unless(None),
        description="Tasks of one group have held-out figures of their own.",
    )

    @model_validator(mode="after")
    def _only_numbers_are_scaled(self) -> Task:
        if self.kind == "binary" and (self.center, self.scale, self.qualifier) != (0.0, 1.0, None):
            raise ValueError("center, scale and qualifier belong to regression tasks only")
        if self.kind == "regression":
            if (self.positive, self.negative, self.positive_weight, self.focal) != (1, 0, 1.0, 0.0):
                raise ValueError(
                    "positive, negative, positive_weight and focal belong to binary tasks"
                )
            _require_alike([0.0] if self.missing is None else [0.0, self.missing], distinct=False)
            return self
        gap = [] if self.missing is None else [self.missing]
        _require_alike([self.positive, self.negative, *gap])
        return self

    @property
    def is_text(self) -> bool:
        """Whether the column of labels holds text."""
        return self.kind == "binary" and isinstance(self.positive, str)


def _require_alike(values: list[Any], distinct: bool = True) -> None:
    """Raise ValueError unless values are all text or all numbers, and differ from each other."""
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(
            "the values of labels, and of missing ones, must be all text or all numbers (without "
            "quotes, YAML reads yes and no as true and false)"
        )
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError("the values of labels must be finite; NaN is always a missing label")
    if distinct and len(set(values)) < len(values):
        raise ValueError("one value stands for two labels")


Tasks = dict[str, Task]
"""Tasks by the name of their column, in the order of the model's outputs."""

LEAST_IN_GROUP = 3
"""Fewer shared tasks are no group: their mean would say much of each of them."""

MOST_GROUPS = 64


def task_groups(tasks: Tasks) -> list[str]:
    """Return the names of the groups of tasks, in the order of their first tasks."""
    return list(dict.fromkeys(task.group for task in tasks.values() if task.group))

"""The models that a job can name."""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from blindsum.platform.job.section import Section

Shape = tuple[int, ...]
"""Of one record: (features,), or of an image (channels, height, width)."""


class Linear(Section):
    """Multinomial logistic regression."""

    kind: Literal["linear"]

    def parameters(self, shape: Shape, outputs: int) -> int:
        """Return the number of parameters, without building the model: it may be huge."""
        return (math.prod(shape) + 1) * outputs


class Mlp(Section):
    """Fully connected layers. tanh bounds activations, which suits clipping (Papernot, 2021)."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1, le=16384)]] = Field([32], min_length=1, max_length=8)
    activation: Literal["relu", "tanh"] = "tanh"

    def parameters(self, shape: Shape, outputs: int) -> int:
        """Return the number of parameters. With 0 outputs, the model ends at its last hidden
        layer."""
        widths = [math.prod(shape), *self.hidden, *([outputs] if outputs else [])]
        return sum((before + 1) * after for before, after in itertools.pairwise(widths))


class Cnn(Section):
    """Convolutions of 3 by 3 with group normalisation, each followed by a pooling that halves
    height and width; then a linear layer over at most 4 by 4 means of each channel."""

    kind: Literal["cnn"]
    channels: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [16, 32], min_length=1, max_length=8
    )
    activation: Literal["relu", "tanh"] = "tanh"

    def parameters(self, shape: Shape, outputs: int) -> int:
        """Return the number of parameters."""
        widths = itertools.pairwise([shape[0], *self.channels])
        of_layers = sum(9 * before * after + 3 * after for before, after in widths)
        return of_layers + (self.channels[-1] * math.prod(self.pooled(shape)) + 1) * outputs

    def pooled(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of what the linear layer gets."""
        height, width = (max(1, min(4, size >> len(self.channels))) for size in shape[1:])
        return height, width


class Factory(Section):
    """A model of your own: `function(features, outputs) -> torch.nn.Module`. `features` is their
    number; for images it is (channels, height, width)."""

    kind: Literal["factory"]
    factory: str

    @field_validator("factory")
    @classmethod
    def _names_a_function(cls, factory: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", factory):
            raise ValueError("write it as module:function")
        return factory


Model = Annotated[Linear | Mlp | Cnn | Factory, Field(discriminator="kind")]

"""The models that a job can name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from blindsum.platform.job.lora_section import Lora
from blindsum.platform.job.section import Section, unless

Shape = tuple[int, ...]
"""Of one record: (features,), or of an image (channels, height, width)."""


@dataclass(frozen=True)
class Tokens:
    """Records that are sequences of whole numbers from 0, which stands for the place after the end,
    to `vocabulary` - 1. A model gets int64 [records, length]."""

    length: int
    vocabulary: int


Input = Shape | Tokens
"""One record as a model gets it."""


class Weights(Section):
    """A file of public weights with which a model begins."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.safetensors$",
        description="Its name; it lies beside the job file, or in a folder `weights` of the silo's "
        "state or of Blindsum's home.",
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    only: list[str] | None = Field(
        None,
        min_length=1,
        description="Patterns of the parameters that it has, as trunk.*; default: all.",
    )


class _Begun(Section):
    """What all models have in common: how they begin, and what is trained."""

    kind: str  # stands before the others in messages
    weights: Weights | None = Field(
        None, exclude_if=unless(None), description="Public weights to begin with."
    )
    freeze: list[str] = Field(
        [],
        max_length=100,
        exclude_if=unless([]),
        description="Patterns of parameters that stay as they begin, and are never sent.",
    )
    lora: Lora | None = Field(
        None, exclude_if=unless(None), description="Adapters that are trained in their place."
    )


class Linear(_Begun):
    """Multinomial logistic regression."""

    kind: Literal["linear"]


class Mlp(_Begun):
    """Fully connected layers. tanh bounds activations, which suits clipping (Papernot, 2021)."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1, le=16384)]] = Field([32], min_length=1, max_length=8)
    activation: Literal["relu", "tanh"] = "tanh"


class Cnn(_Begun):
    """Convolutions of 3 by 3 with group normalisation, each followed by a pooling that halves
    height and width; then a linear layer over at most 4 by 4 means of each channel."""

    kind: Literal["cnn"]
    channels: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [16, 32], min_length=1, max_length=8
    )
    activation: Literal["relu", "tanh"] = "tanh"


class Transformer(_Begun):
    """A transformer's encoder (Vaswani et al., NeurIPS 2017) with normalisation before each part
    and learnt positions; a linear layer gets the mean over a text's places."""

    kind: Literal["transformer"]
    width: int = Field(64, ge=4, le=4096)
    heads: int = Field(4, ge=1, le=64)
    layers: int = Field(2, ge=1, le=48)
    hidden: int = Field(128, ge=1, le=16384, description="Units between the two halves of a layer.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class HuggingFace(_Begun):
    """A model of the transformers library that reads tokens, with a new head for the outputs: its
    class for the classification of sequences. Nothing is downloaded and no code of the model's
    authors runs: it comes from a folder with its configuration and its weights as safetensors, or
    from a configuration alone, with weights from the job's seed."""

    kind: Literal["huggingface"]
    folder: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
        description="Its name; it lies where files of `weights` may lie.",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Of what `sha256sum config.json *.safetensors` prints in the folder.",
    )
    config: dict[str, JsonValue] | None = Field(
        None, description="In place of a folder: what would stand in its config.json."
    )

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> HuggingFace:
        if (self.folder is None) != (self.sha256 is None):
            raise ValueError("folder and sha256 belong together")
        if (self.folder is None) == (self.config is None):
            raise ValueError("give a folder with its sha256, or a config")
        return self


class Factory(_Begun):
    """A model of your own: `function(features, outputs) -> torch.nn.Module`. `features` is their
    number; for images it is (channels, height, width), and for texts `Tokens`."""

    kind: Literal["factory"]
    factory: str

    @field_validator("factory")
    @classmethod
    def _names_a_function(cls, factory: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", factory):
            raise ValueError("write it as module:function")
        return factory


Model = Annotated[
    Linear | Mlp | Cnn | Transformer | HuggingFace | Factory, Field(discriminator="kind")
]

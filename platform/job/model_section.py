"""The models that a job can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from blindsum.platform.job.begun_section import Begun
from blindsum.platform.job.regression_section import Regression
from blindsum.platform.job.section import FunctionName
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.job.tensors import Tensors
from blindsum.platform.job.trees_section import Boosted

Shape = tuple[int, ...]
"""Of one record: (features,), or of an image (channels, height, width)."""


@dataclass(frozen=True)
class Tokens:
    """Records that are sequences of whole numbers from 0, which stands for the place after the end,
    to `vocabulary` - 1. A model gets int64 [records, length].

    `shift` is what the numbers are more than the ids of a public tokenizer's file."""

    length: int
    vocabulary: int
    shift: int = 0

    @property
    def values(self) -> int:
        """The number of values of a record."""
        return self.length


ATOM_CODES = (39, 7, 6, 5, 6, 8, 2)
"""How many values each code of an atom has: atomic number (0 where there is no atom), degree,
formal charge, chirality, hydrogens, hybridisation, aromaticity. Its mass follows."""

BOND_CODES = (6, 2, 2, 7)
"""As `ATOM_CODES`, of a bond: its kind (0 where there is no bond), whether it is conjugated and in
a ring, and its stereochemistry. The numbers of its two atoms, from 0, stand before them."""


@dataclass(frozen=True)
class GraphSize:
    """Records that are molecular graphs of at most so many atoms and bonds. A model gets
    `blindsum.platform.training.graphs.MolecularGraphs`.

    A record's values are those of its atoms, and then those of its bonds: the codes of
    `blindsum.platform.data.graphs`.
    """

    atoms: int
    bonds: int

    @property
    def values(self) -> int:
        """The number of values of a record."""
        of_atom, of_bond = len(ATOM_CODES) + 1, 2 + len(BOND_CODES)
        return self.atoms * of_atom + self.bonds * of_bond


@dataclass(frozen=True)
class Gapped:
    """Records of numbers, float32 [features], of which some may be missing: NaN."""

    values: int


Input = Shape | Tokens | GraphSize | Tensors | Gapped
"""One record as a model gets it."""


class Linear(Begun):
    """Multinomial logistic regression."""

    kind: Literal["linear"]


class Mlp(Begun):
    """Fully connected layers. tanh bounds activations, which suits clipping (Papernot, 2021)."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1, le=16384)]] = Field([32], min_length=1, max_length=8)
    activation: Literal["relu", "tanh"] = "tanh"


class Cnn(Begun):
    """Convolutions of 3 by 3 with group normalisation, each followed by a pooling that halves
    height and width; then a linear layer over at most 4 by 4 means of each channel."""

    kind: Literal["cnn"]
    channels: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [16, 32], min_length=1, max_length=8
    )
    activation: Literal["relu", "tanh"] = "tanh"


class Transformer(Begun):
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


class Dmpnn(Begun):
    """Messages along directed bonds (D-MPNN: Yang et al., J. Chem. Inf. Model. 2019, 59, 3370),
    summed at each atom, then over the atoms; fully connected layers follow."""

    kind: Literal["dmpnn"]
    hidden: int = Field(64, ge=1, le=4096, description="Numbers of a message.")
    depth: int = Field(3, ge=1, le=16, description="Steps, the first included, as chemprop counts.")
    aggregation: Literal["mean", "sum", "norm"] = Field(
        "mean", description="Over the atoms; norm: the sum divided by 100."
    )
    normalise: bool = Field(
        True, description="Whether a layer normalisation follows the aggregation."
    )
    ffn: list[Annotated[int, Field(ge=1, le=16384)]] = Field(
        [64], max_length=8, description="Units of the hidden layers that follow."
    )
    activation: Literal["relu", "tanh"] = "relu"


class HuggingFace(Begun):
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


class Factory(Begun):
    """A model of your own: `function(features, outputs) -> torch.nn.Module`. `features` is their
    number; for images and other tensors it is their shape, for texts `Tokens`, for graphs
    `GraphSize`, and for tensors by name a dict of `TensorSection`."""

    kind: Literal["factory"]
    factory: FunctionName


Model = Annotated[
    Linear
    | Mlp
    | Cnn
    | Transformer
    | HuggingFace
    | Dmpnn
    | Boosted
    | Regression
    | Statistics
    | Factory,
    Field(discriminator="kind"),
]

WITH_HEADS = ("mlp", "dmpnn")
"""The kinds of models whose hidden layers can be shared by private heads."""

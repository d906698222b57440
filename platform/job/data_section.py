"""What every silo's table must meet: features, labels, folds. The data section of a job."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


def _usable(value: float) -> float:
    """Far beyond any use, and short of where a product of two is no number any more."""
    if not 1e-12 <= value <= 1e12:
        raise ValueError("write a number from 1e-12 to 1e12")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_usable)]


Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]

_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Name = Annotated[str, Field(pattern=_NAME)]
"""Of a job, a silo or a dataset: it may stand in messages, tags and names of files."""


def is_name(text: str) -> bool:
    """Whether that can name a dataset of an owner's file."""
    return re.fullmatch(_NAME, text) is not None


class Section(BaseModel):
    """Common rules: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scaling(Section):
    """(x - center) / scale. Public constants, never computed from the silos' data."""

    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0


class FeatureSection(Section):
    """A kind of features. `blindsum.platform.data.features` has the class that computes it."""

    @property
    @abstractmethod
    def inputs(self) -> set[str]:
        """Columns that features are made from."""

    @property
    def smiles_column(self) -> str | None:
        """The column of SMILES; None if the records are not molecules."""
        return None


class Columns(FeatureSection):
    """Numeric columns as they are, scaled by public constants."""

    kind: Literal["columns"]
    columns: dict[str, Scaling] = Field(min_length=1)

    @property
    def inputs(self) -> set[str]:
        """The numeric columns."""
        return set(self.columns)


class Descriptors(FeatureSection):
    """RDKit descriptors of a SMILES column."""

    kind: Literal["descriptors"]
    smiles: str = "smiles"
    descriptors: dict[str, Scaling] | list[str] = Field(min_length=1)

    @field_validator("descriptors")
    @classmethod
    def _named_once(cls, named: dict[str, Scaling] | list[str]) -> dict[str, Scaling] | list[str]:
        if len(set(named)) < len(named):
            raise ValueError("a descriptor is named twice")
        return named

    @property
    def inputs(self) -> set[str]:
        """The column of SMILES."""
        return {self.smiles}

    @property
    def smiles_column(self) -> str:
        """The column of SMILES."""
        return self.smiles


class Ecfp(FeatureSection):
    """Extended-connectivity fingerprints (Rogers and Hahn, 2010) of a SMILES column."""

    kind: Literal["ecfp"]
    smiles: str = "smiles"
    radius: int = Field(2, ge=0, le=6)
    bits: int = Field(2048, ge=64, le=65536)
    chirality: bool = False

    @property
    def inputs(self) -> set[str]:
        """The column of SMILES."""
        return {self.smiles}

    @property
    def smiles_column(self) -> str:
        """The column of SMILES."""
        return self.smiles


class Fingerprint(FeatureSection):
    """A column of lists of the positions that are 1, as `blindsum prepare` writes it."""

    kind: Literal["fingerprint"]
    column: str = "fingerprint"
    bits: int = Field(ge=64, le=65536)

    @property
    def inputs(self) -> set[str]:
        """The column of positions."""
        return {self.column}


Fraction = Annotated[float, Field(ge=0.01, le=0.9)]
"""Of records that are held out. A fraction near 0 or 1 would let an empty fold answer questions about
single records."""


class FoldSection(Section):
    """A kind of folds. `blindsum.platform.data.split` has the class that splits records by it."""

    needs_molecules: ClassVar[bool] = False


class ScaffoldFolds(FoldSection):
    """A chemical series (Bemis-Murcko scaffold) lies in one fold, the same in every silo."""

    needs_molecules = True
    kind: Literal["scaffold"]
    salt: str = Field(min_length=1, description="Public constant; changing it moves records.")
    test_fraction: Fraction = 0.2


class HashFolds(FoldSection):
    """Records with the same key, such as a patient's number, lie in one fold."""

    kind: Literal["hash"]
    column: str
    key: Literal["text", "integer"] = Field(
        "text", description="Type of the keys, the same in every silo: 00017 is not 17."
    )
    salt: str = Field(min_length=1)
    test_fraction: Fraction = 0.2


class ColumnFolds(FoldSection):
    """A column that says `train` or `test`, or numbers the folds of which one is held out."""

    kind: Literal["column"]
    column: str = "fold"
    held_out: int | None = Field(None, ge=0, le=10_000, description="The held-out fold's number.")


class Prepared(Section):
    """Digests from `blindsum prepare`'s manifest: of public reference molecules prepared as the silo's
    own, which say that all silos' tables were prepared alike."""

    recipe: Digest
    structures: Digest
    features: Digest
    folds: Digest
    secret: Digest


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

    Binary columns hold 0 and 1; the model gives a logit. Regression columns hold numbers; the model
    gives (y - center) / scale, and what stands in the qualifier's column (`<`, `=`, `>`) says
    that the true value is below or above what was measured.
    """

    kind: Literal["binary", "regression"] = "binary"
    weight: Positive = 1.0
    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0
    qualifier: str | None = Field(None, description="Column of <, = and >; empty is =.")

    @model_validator(mode="after")
    def _only_numbers_are_scaled(self) -> Task:
        if self.kind == "binary" and (self.center, self.scale, self.qualifier) != (0.0, 1.0, None):
            raise ValueError("center, scale and qualifier are of regression tasks")
        return self


Tasks = dict[str, Task]
"""By the name of their column, in the order of the model's outputs."""


class DataSection(Section):
    """The contract every silo's table must meet."""

    features: Annotated[Columns | Descriptors | Ecfp | Fingerprint, Field(discriminator="kind")]
    target: Target | None = Field(None, description="One column of classes; or give tasks.")
    tasks: Tasks | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="Many columns of labels, with gaps, that all silos know by name.",
    )
    folds: Annotated[ScaffoldFolds | HashFolds | ColumnFolds, Field(discriminator="kind")]
    prepared: Prepared | None = Field(None, description="Refuses tables that say otherwise.")
    unparsable: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with molecules that RDKit cannot read."
    )

    @model_validator(mode="after")
    def _classes_or_tasks(self) -> DataSection:
        if self.target is not None and self.tasks is not None:
            raise ValueError("give a target or tasks, not both")
        used = {self.target.column} if self.target else set(self.tasks or ())
        if both := sorted(used & self.inputs):
            raise ValueError(f"column {both[0]!r} is both a feature and a label")
        return self

    @property
    def inputs(self) -> set[str]:
        """Columns that features are made from."""
        return self.features.inputs

    @property
    def outputs(self) -> int:
        """How many outputs the shared model has."""
        return len(self.target.classes) if self.target else len(self.tasks or ())

    @model_validator(mode="after")
    def _scaffolds_need_molecules(self) -> DataSection:
        if self.folds.needs_molecules and self.features.smiles_column is None:
            raise ValueError(f"folds.kind {self.folds.kind} needs features with a smiles column")
        return self

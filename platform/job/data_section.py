"""The data section of a job: the features, labels and folds that every silo's table must have."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


def _usable(value: float) -> float:
    """Limit a number to a range far wider than any use, in which the product of two is finite."""
    if not 1e-12 <= value <= 1e12:
        raise ValueError("write a number from 1e-12 to 1e12")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_usable)]


Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]

_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Name = Annotated[str, Field(pattern=_NAME)]
"""The name of a job, a silo or a dataset. It may appear in messages, tags and file names."""


def is_name(text: str) -> bool:
    """Return whether this text can name a dataset in an owner's file."""
    return re.fullmatch(_NAME, text) is not None


class Section(BaseModel):
    """The base of all sections: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scaling(Section):
    """The scaling (x - center) / scale. Both are public constants, never computed from data."""

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
    """Numeric columns, scaled by public constants."""

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
    """A column of lists with the positions of the bits that are 1, as `blindsum prepare` writes
    it."""

    kind: Literal["fingerprint"]
    column: str = "fingerprint"
    bits: int = Field(ge=64, le=65536)

    @property
    def inputs(self) -> set[str]:
        """The column of positions."""
        return {self.column}


Fraction = Annotated[float, Field(ge=0.01, le=0.9)]
"""The fraction of records that are held out. Near 0 or 1, whether a fold is empty could reveal
single records."""


class FoldSection(Section):
    """A kind of folds. `blindsum.platform.data.split` has the class that splits records by it."""

    needs_molecules: ClassVar[bool] = False


class ScaffoldFolds(FoldSection):
    """Folds by chemical series: a Bemis-Murcko scaffold lies in one fold, the same at every
    silo."""

    needs_molecules = True
    kind: Literal["scaffold"]
    salt: str = Field(min_length=1, description="Public constant; changing it moves records.")
    test_fraction: Fraction = 0.2


class HashFolds(FoldSection):
    """Folds by key: records with the same key, such as a patient's number, lie in one fold."""

    kind: Literal["hash"]
    column: str
    key: Literal["text", "integer"] = Field(
        "text", description="Type of the keys, the same at every silo: text 00017 is not 17."
    )
    salt: str = Field(min_length=1)
    test_fraction: Fraction = 0.2


class ColumnFolds(FoldSection):
    """Folds from a column: it holds `train` or `test`, or fold numbers, one of which is held
    out."""

    kind: Literal["column"]
    column: str = "fold"
    held_out: int | None = Field(None, ge=0, le=10_000, description="The held-out fold's number.")


class Prepared(Section):
    """Digests from the manifest of `blindsum prepare`.

    They are taken over public reference molecules that were prepared like the silo's own, and show
    that all silos prepared their tables in the same way.
    """

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


class DataSection(Section):
    """The requirements that every silo's table must meet."""

    features: Annotated[Columns | Descriptors | Ecfp | Fingerprint, Field(discriminator="kind")]
    target: Target | None = Field(None, description="One column of classes; instead of tasks.")
    tasks: Tasks | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="Label columns, possibly with gaps, whose names all silos know.",
    )
    folds: Annotated[ScaffoldFolds | HashFolds | ColumnFolds, Field(discriminator="kind")]
    prepared: Prepared | None = Field(
        None, description="Refuse tables whose digests of preparation differ from these."
    )
    unparsable: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with molecules that RDKit cannot read."
    )

    @model_validator(mode="after")
    def _classes_or_tasks(self) -> DataSection:
        if self.target is not None and self.tasks is not None:
            raise ValueError("give target or tasks, not both")
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
        """The number of outputs of the shared model."""
        return len(self.target.classes) if self.target else len(self.tasks or ())

    @model_validator(mode="after")
    def _scaffolds_need_molecules(self) -> DataSection:
        if self.folds.needs_molecules and self.features.smiles_column is None:
            raise ValueError(f"folds.kind {self.folds.kind} needs features with a smiles column")
        return self

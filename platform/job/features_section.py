"""The features of a job: plain columns, descriptors, fingerprints computed, projected or read."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from blindsum.platform.job.descriptor_sets import SETS, written_out
from blindsum.platform.job.name_patterns import expanded
from blindsum.platform.job.section import (
    Positive,
    PublicDate,
    Section,
    date_as_text,
    require_date,
    unless,
)

FIRST_SCALING: Literal["esol-1"] = "esol-1"
"""The constants of job files that name none."""

MACCS_KEYS = 166
"""Those that were published; RDKit has no others."""


class Scaling(Section):
    """The scaling (x - center) / scale. Both are public constants, never computed from data."""

    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0


Value = Annotated[str | bool | int | float, BeforeValidator(date_as_text)]
"""A value as a column holds it; a date as text, YYYY-MM-DD."""

MAX_INTEGER = 2**53
"""Integers below have an exact float64, whatever the type of their column."""


class Missing(Section):
    """What a gap counts as. A gap is null, NaN, empty text in a column of text or dates, or one of
    `codes`."""

    value: Value | None = Field(
        None, description="A gap counts as this value, in the column's own unit."
    )
    indicator: bool = Field(False, description="Whether one more feature, 0 or 1, tells of a gap.")
    codes: list[Value] = Field(
        [], max_length=1000, description="Values that stand for a gap too, as -9 or 999."
    )
    keep: bool = Field(
        False,
        exclude_if=unless(False),
        description="For trees: a gap counts as nothing, and each split has a side for gaps.",
    )

    @model_validator(mode="after")
    def _counts_as_something(self) -> Missing:
        if self.keep and (self.value is not None or self.indicator):
            raise ValueError("keep: true goes without value and indicator: a gap stays a gap")
        if self.value is None and not self.indicator and not self.keep:
            raise ValueError(
                "give value, or indicator: true, or both; or for trees of numbers, keep: true"
            )
        return self


class Dates(Section):
    """A column of dates, as days since a public one."""

    since: PublicDate


class FeatureColumn(Scaling):
    """A column, as features: a scaled number, a scaled date, or a 0 or 1 for each category.

    The settings that are not used are left out of dumps, so that older jobs keep their digests and
    approvals.
    """

    missing: Missing | None = Field(
        None, exclude_if=unless(None), description="What a gap counts as; default: refused."
    )
    categories: list[str | int | bool] = Field(
        [],
        max_length=10_000,
        exclude_if=unless([]),
        description="The column's values: one feature each, 1 where the record has that value.",
    )
    other: bool = Field(
        False,
        exclude_if=unless(False),
        description="Whether values beyond the categories have a feature; default: refused.",
    )
    date: Dates | None = Field(
        None, exclude_if=unless(None), description="The column holds dates: days since this one."
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> FeatureColumn:
        if self.categories:
            if self.date or (self.center, self.scale) != (0.0, 1.0):
                raise ValueError("center, scale and date do not go with categories")
            self._check_categories(self.categories)
        elif self.other:
            raise ValueError("other goes with categories")
        elif self.missing:
            if self.missing.value is None and not self.missing.keep:
                raise ValueError(
                    "missing.value is required for numbers and dates: a public constant, such as "
                    "the center; only trees can do with keep: true instead"
                )
            given = [] if self.missing.value is None else [self.missing.value]
            for value in (*given, *self.missing.codes):
                require_date(value) if self.date else _require_number(value)
        return self

    def _check_categories(self, categories: list[str | int | bool]) -> None:
        if len({type(one) for one in categories}) > 1:
            raise ValueError(
                "categories must be all text, all integers, or true and false (without quotes, "
                "YAML reads yes and no as true and false)"
            )
        if len(set(categories)) < len(categories):
            raise ValueError("a category is named twice")
        if len(categories) < 2 and not self.other:
            raise ValueError("one category is the same for all records: name more, or other: true")
        if any(isinstance(one, int) and abs(one) >= MAX_INTEGER for one in categories):
            raise ValueError("a category is an integer beyond 2^53")
        if self.missing is None:
            return
        if self.missing.keep:
            raise ValueError("missing.keep is for numbers and dates: categories have indicator")
        if self.missing.value is not None and self.missing.value not in categories:
            raise ValueError(
                "missing.value must be one of the categories; to tell gaps apart, leave it out and "
                "set missing.indicator: true"
            )
        for code in self.missing.codes:
            if isinstance(code, str) != isinstance(categories[0], str):
                raise ValueError("missing.codes must be text or numbers, as the categories are")
            if code in categories:
                raise ValueError(f"{code!r} is both a category and a code of missing values")


def _require_number(value: Any) -> None:
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{value!r} in missing is not a number, as the column's values are")


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
    """Columns of numbers, dates and categories, as public constants say.

    A name with `*` stands for all `names` that match it. They are written out here, once and for
    all: the job that silos receive, and its digest, have every column and no pattern.
    """

    kind: Literal["columns"]
    names: list[str] | None = Field(
        None,
        exclude_if=unless(None),
        description="The agreed names that patterns in columns are matched against.",
    )
    columns: dict[str, FeatureColumn] = Field(min_length=1)

    @field_validator("columns")
    @classmethod
    def _patterns_are_written_out(
        cls, columns: dict[str, FeatureColumn], info: ValidationInfo
    ) -> dict[str, FeatureColumn]:
        if "names" not in info.data:  # they are at fault themselves
            return columns
        return expanded(columns, info.data["names"])

    @model_validator(mode="after")
    def _names_are_used_up(self) -> Columns:
        object.__setattr__(self, "names", None)  # the section is frozen for everyone else
        return self

    @property
    def inputs(self) -> set[str]:
        """The columns."""
        return set(self.columns)

    @property
    def keeps_gaps(self) -> list[str]:
        """The columns whose gaps stay gaps, for trees."""
        return [name for name, one in self.columns.items() if one.missing and one.missing.keep]


class OfMolecules(FeatureSection):
    """Features of a SMILES column."""

    kind: str  # stands before smiles in dumps, and so in the job's digest
    smiles: str = "smiles"

    @property
    def inputs(self) -> set[str]:
        """The column of SMILES."""
        return {self.smiles}

    @property
    def smiles_column(self) -> str:
        """The column of SMILES."""
        return self.smiles


class Descriptors(OfMolecules):
    """RDKit descriptors of a SMILES column.

    The names of sets are written out here, once and for all: the job that silos receive, and its
    digest, have every descriptor and no set.
    """

    kind: Literal["descriptors"]
    descriptors: dict[str, Scaling] | list[str] = Field(min_length=1)
    # Left out of dumps if it is not given, so that older jobs keep their digests and approvals.
    scaling: Literal["esol-1", "druglike-1"] | None = Field(
        None,
        exclude_if=lambda scaling: scaling is None,
        description="Public constants that scale listed descriptors: druglike-1 (ChEMBL) for "
        "drug-like molecules; esol-1, the default, for small ones.",
    )

    @model_validator(mode="before")
    @classmethod
    def _sets_are_written_out(cls, content: Any) -> Any:
        named = content.get("descriptors") if isinstance(content, dict) else None
        if isinstance(named, str):
            if named not in SETS:
                raise ValueError(
                    f"descriptors: {named!r} is not a set, which are {', '.join(SETS)}; write "
                    "other descriptors as a list"
                )
            named = [named]
        if not isinstance(named, list) or not any(one in SETS for one in map(str, named)):
            return content
        # druglike-1 scales every descriptor of every set.
        scaling = content.get("scaling") or "druglike-1"
        return content | {"descriptors": written_out(list(map(str, named))), "scaling": scaling}

    @model_validator(mode="after")
    def _constants_once(self) -> Descriptors:
        if self.scaling and isinstance(self.descriptors, dict):
            raise ValueError(
                "give scaling with a list of descriptors: constants written with each leave it no "
                "use"
            )
        return self

    @field_validator("descriptors")
    @classmethod
    def _named_once(cls, named: dict[str, Scaling] | list[str]) -> dict[str, Scaling] | list[str]:
        if len(set(named)) < len(named):
            raise ValueError("a descriptor is named twice")
        return named


class Ecfp(OfMolecules):
    """Extended-connectivity fingerprints (Rogers and Hahn, 2010) of a SMILES column."""

    kind: Literal["ecfp"]
    radius: int = Field(2, ge=0, le=6)
    bits: int = Field(2048, ge=64, le=65536)
    chirality: bool = False


class Maccs(OfMolecules):
    """The 166 public MACCS keys (Durant, Leland, Henry and Nourse, 2002) of a SMILES column."""

    kind: Literal["maccs"]

    @property
    def bits(self) -> int:
        """The number of keys."""
        return MACCS_KEYS


class Projection(OfMolecules):
    """A public random projection of the counts of circular substructures, those that `Ecfp` folds
    into bits, of a SMILES column."""

    kind: Literal["projection"]
    dimensions: int = Field(128, ge=32, le=512)
    radius: int = Field(2, ge=0, le=3)
    seed: int = Field(
        1, ge=0, lt=2**63, description="Public; of the projection, the same at every silo."
    )


class Kernel(OfMolecules):
    """Kernel principal components of a SMILES column: how like each of many public molecules a
    molecule is."""

    kind: Literal["kernel"]
    dimensions: int = Field(128, ge=8, le=256)
    basis: Literal["nci-1"] = Field(
        "nci-1", description="The public molecules: of a screen at the NCI."
    )


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

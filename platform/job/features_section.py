"""The features of a job: plain columns, descriptors, fingerprints computed or read."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from pydantic import Field, field_validator, model_validator

from blindsum.platform.job.section import Positive, Section

FIRST_SCALING: Literal["esol-1"] = "esol-1"
"""The constants of job files that name none."""


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
    # Left out of dumps if it is not given, so that older jobs keep their digests and approvals.
    scaling: Literal["esol-1", "druglike-1"] | None = Field(
        None,
        exclude_if=lambda scaling: scaling is None,
        description="Public constants that scale listed descriptors: druglike-1 (ChEMBL) for "
        "drug-like molecules; esol-1, the default, for small ones.",
    )

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

"""Molecular graphs as the records of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blindsum.platform.job.features_section import OfMolecules
from blindsum.platform.job.model_section import GraphSize


class Graphs(OfMolecules):
    """The atoms and bonds of a SMILES column, for models that pass messages between them."""

    kind: Literal["graphs"]
    featurisation: Literal["chemprop-2"] = Field(
        "chemprop-2",
        description="What is known of an atom and of a bond: the defaults of chemprop 2.",
    )
    max_atoms: int = Field(
        100,
        ge=1,
        le=255,
        description="Larger molecules have no features; nor do those with more than one and a half "
        "times as many bonds.",
    )

    @property
    def size(self) -> GraphSize:
        """The most atoms and bonds of a record."""
        return GraphSize(self.max_atoms, self.max_atoms * 3 // 2)

"""The folds of a job: which records are held out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from blindsum.platform.job.section import PublicDate, Section

Fraction = Annotated[float, Field(ge=0.01, le=0.9)]
"""The fraction of records that are held out. Near 0 or 1, whether a fold is empty could reveal
single records."""


MoleculeKey = Literal["scaffold", "spelling", "cluster"]
"""A molecule's scaffold, its canonical SMILES, or the public molecule that is most similar to
it."""


class FoldSection(Section):
    """A kind of folds. `blindsum.platform.data.split` has the class that splits records by it."""

    needs_molecules: ClassVar[bool] = False
    molecule_key: ClassVar[MoleculeKey | None] = None
    """What tells molecules apart, where the records are molecules."""


class ScaffoldFolds(FoldSection):
    """Folds by chemical series: a Bemis-Murcko scaffold lies in one fold, the same at every
    silo."""

    needs_molecules = True
    molecule_key = "scaffold"
    kind: Literal["scaffold"]
    salt: str = Field(min_length=1, description="Public constant; changing it moves records.")
    test_fraction: Fraction = 0.2


class ClusterFolds(FoldSection):
    """Folds by similarity: a cluster of molecules around a public one lies in one fold, the same at
    every silo."""

    needs_molecules = True
    molecule_key = "cluster"
    kind: Literal["cluster"]
    salt: str = Field(min_length=1, description="Public constant; changing it moves records.")
    test_fraction: Fraction = 0.2


class TimeFolds(FoldSection):
    """Folds by date: what was measured from a date on is held out."""

    kind: Literal["time"]
    column: str
    held_out_from: PublicDate


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


class RandomFolds(FoldSection):
    """Folds by the record itself: records with the same features lie in one fold, and a record's
    fold never moves, whatever its label."""

    molecule_key = "spelling"
    kind: Literal["random"]
    salt: str = Field(min_length=1, description="Public constant; changing it moves records.")
    test_fraction: Fraction = 0.2

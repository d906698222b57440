"""The recipe, on which all silos agree, and the sources, which only one silo knows.

They are two YAML files. The recipe is public in the consortium and the same everywhere. The sources
name a silo's own files, columns and assays, and never leave it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from blindsum.platform.data.preparation.units import MOLAR, Unit, canonical, unit_of
from blindsum.platform.job.csv_section import CsvSection
from blindsum.platform.job.features_section import Descriptors, Ecfp, Kernel, Maccs, Projection
from blindsum.platform.job.labels_section import Task, Tasks
from blindsum.platform.job.section import Positive, Section, unless
from blindsum.platform.job.yaml_reader import read_section

Name = Annotated[str, Field(min_length=1, max_length=200)]

COMPOUND, FOLD, FINGERPRINT = "compounds", "fold", "fingerprint"
SIDE = "_side"
"""The suffix that, after a task's name, names the column of its qualifiers."""


class Structures(Section):
    """The standardisation of molecules by RDKit's MolStandardize: clean-up, the fragment parent,
    and then these settings."""

    neutralise: bool = True
    tautomer: bool = Field(False, description="Take RDKit's canonical tautomer: six times slower.")
    stereo: bool = Field(True, description="False removes stereochemistry.")
    isotopes: bool = Field(False, description="False removes isotope labels.")
    max_heavy_atoms: int = Field(100, ge=1, le=500)


class PermutedEcfp(Ecfp):
    """Fingerprints, their bits permuted by the secret."""

    smiles: Literal["smiles"] = "smiles"
    bits: int = Field(32_000, ge=64, le=65536)

    @property
    def own_columns(self) -> list[str]:
        """Columns of the prepared table that are named for a setting: none."""
        return []

    def require_known(self) -> None:
        """RDKit computes every fingerprint that the section can describe."""


class PermutedMaccs(Maccs):
    """MACCS keys, their places permuted by the secret."""

    smiles: Literal["smiles"] = "smiles"

    @property
    def own_columns(self) -> list[str]:
        """Columns of the prepared table that are named for a setting: none."""
        return []

    def require_known(self) -> None:
        """RDKit computes them all."""


class PlainProjection(Projection):
    """A projection of counts of substructures, one column for each dimension."""

    smiles: Literal["smiles"] = "smiles"

    @property
    def own_columns(self) -> list[str]:
        """Columns of the prepared table that are named for a setting: one for each dimension."""
        return [f"projection_{i}" for i in range(self.dimensions)]

    def require_known(self) -> None:
        """Every projection that the section can describe is known."""


class PlainKernel(Kernel):
    """Kernel principal components, one column each."""

    smiles: Literal["smiles"] = "smiles"

    @property
    def own_columns(self) -> list[str]:
        """Columns of the prepared table that are named for a setting: one for each component."""
        return [f"component_{i}" for i in range(self.dimensions)]

    def require_known(self) -> None:
        """Every basis that the section can name is known."""


class PlainDescriptors(Descriptors):
    """RDKit descriptors, one column each."""

    smiles: Literal["smiles"] = "smiles"

    @property
    def own_columns(self) -> list[str]:
        """Columns of the prepared table that are named for a setting: one for each descriptor."""
        return list(self.descriptors)

    def require_known(self) -> None:
        """Raise JobError if RDKit lacks a descriptor, or no public scaling is known for it."""
        # RDKit (0.1 s and 45 MiB) is imported only if a recipe has descriptors.
        from blindsum.platform.data.descriptors import descriptor_scaling

        descriptor_scaling(self)


PreparedSection = PermutedEcfp | PermutedMaccs | PlainDescriptors | PlainKernel | PlainProjection


class Folds(Section):
    """The fold of a molecule: HMAC-SHA256 of its scaffold under the secret, scaled to the number of
    folds. An acyclic molecule is its own scaffold."""

    count: int = Field(5, ge=2, le=100)
    held_out: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> Folds:
        if self.held_out >= self.count:
            raise ValueError(f"held_out: the folds are 0 to {self.count - 1}")
        return self


class GroupQuorum(Section):
    """What a group of tasks has in place of the quorum of all."""

    classes: int | None = Field(None, ge=1)
    positives: int | None = Field(None, ge=1)
    negatives: int | None = Field(None, ge=1)
    records: int | None = Field(None, ge=1)
    values: int | None = Field(None, ge=1)
    uncensored: int | None = Field(None, ge=1)
    deviation: float | None = Field(None, ge=0, allow_inf_nan=False)


class Quorum(Section):
    """The fewest labels of a task at this silo. With fewer, a private task is dropped, and a shared
    one is left empty."""

    classes: int = Field(25, ge=1, description="Fewest records of each class.")
    positives: int | None = Field(None, ge=1, description="Fewest records of class 1.")
    negatives: int | None = Field(None, ge=1, description="Fewest records of class 0.")
    records: int = Field(1, ge=1, description="Fewest records of a binary task, of both classes.")
    values: int = Field(50, ge=1, description="Fewest records of a regression task.")
    uncensored: int = Field(25, ge=1, description="Fewest of these that were measured exactly.")
    deviation: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Least standard deviation of exact numbers."
    )
    groups: dict[Name, GroupQuorum] = Field({}, description="Other numbers for groups of tasks.")

    @property
    def least_positives(self) -> int:
        """The fewest records of class 1."""
        return self.classes if self.positives is None else self.positives

    @property
    def least_negatives(self) -> int:
        """The fewest records of class 0."""
        return self.classes if self.negatives is None else self.negatives

    def of(self, group: str | None) -> Quorum:
        """Return the quorum of a group's tasks; None stands for tasks of no group."""
        own = self.groups.get(group or "", GroupQuorum()).model_dump(exclude_none=True)
        if "classes" in own:  # said of the group, it goes before what is said of all
            own = {"positives": None, "negatives": None} | own
        return self.model_copy(update=own)


def _spelt(text: str) -> str:
    """Return a unit's canonical spelling, so that recipes with the same unit have the same
    digest."""
    if not (found := canonical(text)):
        raise ValueError("write a unit, such as nM, ug/mL or %")
    return found


class AssayTask(Section):
    """A task's labels: the measured number or, with a threshold, whether it is at least the
    threshold (at most, if direction is low). Every number here is in `unit`, or on the scale of
    the transform."""

    kind: Literal["binary", "regression"] = "binary"
    unit: Annotated[str, AfterValidator(_spelt)] | None = Field(
        None, description="Unit to which numbers are converted."
    )
    transform: Literal["p_molar"] | None = Field(None, description="-log10 of mol/L, as in pIC50.")
    direction: Literal["high", "low", "either"] = Field(
        "high",
        description="With low, label 1 means numbers up to the threshold; with either, numbers "
        "that are as far from zero.",
    )
    group: Name | None = Field(
        None,
        description="Tasks of one kind, with a quorum of their own, such as screens at one "
        "concentration.",
        exclude_if=unless(None),
    )
    weight: Positive = 1.0
    center: float = Field(0.0, allow_inf_nan=False)
    scale: Positive = 1.0
    threshold: float | None = Field(None, allow_inf_nan=False)
    low: float | None = Field(None, allow_inf_nan=False, description="Least credible number.")
    high: float | None = Field(None, allow_inf_nan=False, description="Greatest credible number.")

    @model_validator(mode="after")
    def _alike(self) -> AssayTask:
        if self.kind == "regression" and self.threshold is not None:
            raise ValueError("threshold belongs to binary tasks only")
        if self.kind == "binary" and (self.center, self.scale) != (0.0, 1.0):
            raise ValueError("center and scale belong to regression tasks only")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        if self.direction != "high" and self.threshold is None:
            raise ValueError("direction needs a threshold")
        if self.direction == "either" and (self.threshold or 0) <= 0:
            raise ValueError("direction: either needs a threshold above zero")
        if self.unit and self.transform:
            raise ValueError("give unit or transform, not both: p_molar takes any concentration")
        if (self.unit or self.transform) and not self.numeric:
            raise ValueError("unit and transform need kind: regression, or a threshold")
        return self

    @property
    def numeric(self) -> bool:
        """Whether labels are computed from numbers; if not, the values already are 0 and 1."""
        return self.kind == "regression" or self.threshold is not None

    @property
    def target(self) -> Unit | None:
        """The unit to which measurements are converted before a transform; None if the task has no
        unit."""
        if self.transform == "p_molar":
            return MOLAR
        return unit_of(self.unit) if self.unit else None

    def task(self, name: str) -> Task:
        """Return the task in the form of the job file."""
        side = name + SIDE if self.kind == "regression" else None
        return Task(
            kind=self.kind, weight=self.weight, center=self.center, scale=self.scale, qualifier=side
        )


class Recipe(Section):
    """The settings of a preparation, public in the consortium and the same at every silo."""

    structures: Structures = Structures()
    features: Annotated[PreparedSection, Field(discriminator="kind")]
    folds: Folds = Folds()
    tasks: dict[Name, AssayTask] = Field({}, description="Tasks that all silos share.")
    quorum: Quorum = Quorum()

    @model_validator(mode="after")
    def _columns_of_their_own(self) -> Recipe:
        if taken := doubled(self.tasks, self):
            raise ValueError(f"tasks: {taken[0]!r} is the name of another column")
        return self


UNITLESS = "none"
"""Written in the sources in place of a unit, for numbers without one, such as pIC50."""


class Compounds(Section):
    """The structure table: one row for each compound."""

    file: str
    compound: str = "compound"
    smiles: str = "smiles"


class Activities(Section):
    """The activity table: one row for each measurement; or several tables with the same columns."""

    file: str | Annotated[list[str], Field(min_length=1)]
    compound: str = "compound"
    assay: str = "assay"
    value: str = "value"
    qualifier: str | None = Field(None, description="Column of <, = and >; empty is =.")
    unit: str | None = Field(None, description="Column of units.")
    one_unit: str | None = Field(
        None, description="Instead of unit: the unit of every number, or none if they have no unit."
    )

    @property
    def files(self) -> list[str]:
        """The files, as the sources name them."""
        return [self.file] if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def _one_way(self) -> Activities:
        if self.unit is not None and self.one_unit is not None:
            raise ValueError("give unit or one_unit, not both")
        return self


class Wide(Section):
    """One table instead of both: a row for each compound, a column for each assay."""

    file: str
    smiles: str = "smiles"
    compound: str | None = None
    qualifiers: dict[str, str] = Field({}, description="Column of <, = and >, by assay.")
    units: dict[str, str] = Field({}, description="Unit of the numbers, or none, by assay.")
    unit_columns: dict[str, str] = Field({}, description="Column of units, by assay.")

    @model_validator(mode="after")
    def _one_way(self) -> Wide:
        if set(self.units) & set(self.unit_columns):
            raise ValueError("name an assay in units or in unit_columns, not in both")
        return self


class Sources(Section):
    """A silo's own tables."""

    compounds: Compounds | None = None
    activities: Activities | None = None
    wide: Wide | None = None
    assays: str | None = Field(
        None, description="Table of assays: assay, task, and the settings of an AssayTask."
    )
    divide_weights: bool = Field(
        False,
        description="Divide the weight of a task of the silo's own by the number of its assay's "
        "tasks of its kind that meet their quorum.",
    )
    csv: CsvSection | None = Field(
        None, description="How this silo's CSV files are written, as a job's data.csv."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Sources:
        if (self.wide is None) == (self.compounds is None or self.activities is None):
            raise ValueError("give compounds and activities, or wide")
        if self.wide is not None and (self.compounds or self.activities):
            raise ValueError("give compounds and activities, or wide, not both")
        return self


def doubled(tasks: dict[str, AssayTask], recipe: Recipe) -> list[str]:
    """Return the columns that the prepared table would have twice with those tasks."""
    columns = [COMPOUND, FOLD, FINGERPRINT, *tasks, *recipe.features.own_columns]
    columns += [name + SIDE for name, task in tasks.items() if task.kind == "regression"]
    return [name for name, count in Counter(columns).items() if count > 1]


def as_tasks(tasks: dict[str, AssayTask]) -> Tasks:
    """Return the tasks in the form of the job file."""
    return {name: task.task(name) for name, task in tasks.items()}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises JobError if the file cannot be read or a setting is wrong."""
    recipe = read_section(path, Recipe, "recipe", "See docs/preparation.md.").section
    recipe.features.require_known()
    return recipe


def load_sources(path: Path) -> Sources:
    """Read a silo's sources. Raises JobError if the file cannot be read or a setting is wrong."""
    return read_section(path, Sources, "sources", "See docs/preparation.md.").section

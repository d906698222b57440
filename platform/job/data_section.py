"""The data section of a job: the features, labels and folds that every silo's table must have."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from blindsum.platform.job.csv_section import CsvSection
from blindsum.platform.job.features_section import (
    Columns,
    Descriptors,
    Ecfp,
    Fingerprint,
    Kernel,
    Maccs,
    Projection,
)
from blindsum.platform.job.folds_section import (
    ClusterFolds,
    ColumnFolds,
    HashFolds,
    RandomFolds,
    ScaffoldFolds,
    TimeFolds,
)
from blindsum.platform.job.graphs_section import Graphs
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.labels_section import LEAST_IN_GROUP, MOST_GROUPS, Target, Tasks
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.section import Digest, Section, unless
from blindsum.platform.job.text_section import Text

Features = Annotated[
    Columns
    | Descriptors
    | Ecfp
    | Fingerprint
    | Graphs
    | Images
    | Maccs
    | OwnFeatures
    | Kernel
    | Projection
    | Text,
    Field(discriminator="kind"),
]


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


class DataSection(Section):
    """The requirements that every silo's table must meet."""

    features: Features
    target: Target | None = Field(
        None, description="One column of classes or numbers; instead of tasks."
    )
    tasks: Tasks | None = Field(
        None,
        min_length=1,
        max_length=10_000,
        description="Label columns, possibly with gaps, whose names all silos know.",
    )
    folds: Annotated[
        ScaffoldFolds | ClusterFolds | TimeFolds | HashFolds | ColumnFolds | RandomFolds,
        Field(discriminator="kind"),
    ]
    prepared: Prepared | None = Field(
        None, description="Refuse tables whose digests of preparation differ from these."
    )
    unparsable: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What to do with molecules, pictures and other records that give no features.",
    )
    unlabelled: Literal["refuse", "drop"] = Field(
        "refuse",
        exclude_if=unless("refuse"),
        description="What to do with records without any label.",
    )
    qualifiers: Literal["refuse", "drop"] = Field(
        "refuse",
        exclude_if=unless("refuse"),
        description="What to do with labels whose qualifier is not <, = or >.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _a_number_is_one_task(
        cls, content: Any, handler: ModelWrapValidatorHandler[DataSection]
    ) -> DataSection:
        """Store a target without classes as the only task, which it is everywhere else."""
        section = handler(content)
        target = section.target
        if target is None or target.classes:
            return section
        return section.model_copy(
            update={"target": None, "tasks": {target.column: target.as_task()}}
        )

    csv: CsvSection | None = Field(
        None,
        exclude_if=unless(None),
        description="How CSV files are read; default: commas, decimal points, UTF-8.",
    )

    @model_validator(mode="after")
    def _classes_or_tasks(self) -> DataSection:
        if self.target is not None and self.tasks is not None:
            raise ValueError("give target or tasks, not both")
        used = {self.target.column} if self.target else set(self.tasks or ())
        if both := sorted(used & self.inputs):
            raise ValueError(f"column {both[0]!r} is both a feature and a label")
        return self

    @model_validator(mode="after")
    def _groups_have_several_tasks(self) -> DataSection:
        sizes = Counter(task.group for task in (self.tasks or {}).values() if task.group)
        if small := [group for group, size in sizes.items() if size < LEAST_IN_GROUP]:
            raise ValueError(
                f"the tasks' group {small[0]!r} has fewer than {LEAST_IN_GROUP} tasks, whose mean "
                "would say much of each of them"
            )
        if len(sizes) > MOST_GROUPS:
            raise ValueError(f"tasks may have at most {MOST_GROUPS} groups, not {len(sizes)}")
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

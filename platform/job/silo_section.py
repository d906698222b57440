"""The silos of a job."""

from __future__ import annotations

from pydantic import Field, field_validator

from blindsum.platform.job.section import Name, Positive, Section, unless


class Resources(Section):
    """What a silo's process asks of its Ray."""

    gpus: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of a GPU, for training and evaluation; of a silo with workers, for each "
        "of them.",
    )


NO_RESOURCES = Resources()


class SiloSection(Section):
    """One silo of the job: a data owner and its table."""

    name: Name = Field(description="Short name; appears in every message about this silo.")
    data: str = Field(
        description="File or folder, relative to the job file or absolute; at a silo with an "
        "owner's file, a dataset's name in it."
    )

    @field_validator("state")
    @classmethod
    def _does_not_depend_on_a_folder(cls, state: str | None) -> str | None:
        if state is not None and not state.startswith(("/", "~")):
            raise ValueError(
                "write an absolute path, or one that starts with ~: the ledger must not move"
            )
        return state

    epsilon: Positive | None = Field(None, description="Stricter budget than privacy.epsilon.")
    identity: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Fingerprint of this silo's identity, from blindsum identity; any other "
        "identity is refused.",
    )
    state: str | None = Field(
        None, description="Folder of ledger and identity; default ~/.blindsum/silos/NAME."
    )
    private_tasks: str | None = Field(
        None,
        description="YAML file of this silo's private tasks, on its node; their heads never leave "
        "the silo.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        exclude_if=unless(1),
        description="Number of processes of the silo's own Ray that share its table.",
    )
    resources: Resources = Field(
        NO_RESOURCES,
        exclude_if=unless(NO_RESOURCES),
        description="What each of its processes that trains asks of its Ray.",
    )

    @property
    def own_gpus(self) -> float:
        """The share of a GPU that the silo's own process takes; its workers take theirs."""
        return self.resources.gpus if self.workers == 1 else 0.0

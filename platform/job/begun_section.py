"""How a model begins, and what of it is trained."""

from __future__ import annotations

from pydantic import Field

from blindsum.platform.job.lora_section import Lora
from blindsum.platform.job.section import Section, unless


class Weights(Section):
    """A file of public weights with which a model begins."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.safetensors$",
        description="Its name; it lies beside the job file, or in a folder `weights` of the silo's "
        "state or of Blindsum's home.",
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    only: list[str] | None = Field(
        None,
        min_length=1,
        description="Patterns of the parameters that it has, as trunk.*; default: all.",
    )


class Begun(Section):
    """What all models have in common: how they begin, and what is trained."""

    kind: str  # stands before the others in messages
    weights: Weights | None = Field(
        None, exclude_if=unless(None), description="Public weights to begin with."
    )
    freeze: list[str] = Field(
        [],
        max_length=100,
        exclude_if=unless([]),
        description="Patterns of parameters that stay as they begin, and are never sent.",
    )
    lora: Lora | None = Field(
        None, exclude_if=unless(None), description="Adapters that are trained in their place."
    )

    @property
    def is_summed(self) -> bool:
        """Whether the model follows from sums over records, and not from gradients."""
        return False

    @property
    def is_scored(self) -> bool:
        """Whether it predicts, and is scored on held-out records."""
        return True

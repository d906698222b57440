"""Adapters of low rank, trained beside weights that stay as they are."""

from __future__ import annotations

from pydantic import Field

from blindsum.platform.job.section import Section, unless


class Lora(Section):
    """Low-rank adapters (LoRA: Hu et al., ICLR 2022). They alone are trained and sent, together
    with `modules_to_save`; every other parameter stays as the model begins."""

    rank: int = Field(8, ge=1, le=1024, description="Columns of the two factors of a change.")
    alpha: int = Field(8, ge=1, le=65536, description="A change counts alpha / rank times.")
    targets: list[str] = Field(
        min_length=1,
        max_length=100,
        description="Layers that get an adapter: a name or its end (linear1), or a pattern.",
    )
    modules_to_save: list[str] | None = Field(
        None,
        max_length=100,
        exclude_if=unless(None),
        description="Modules that are trained whole, named likewise; default: the model's head.",
    )

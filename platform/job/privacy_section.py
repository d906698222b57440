"""The privacy of a job: the noise, and its budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blindsum.platform.job.section import Positive, Section, unless


class _Noise(Section):
    """The settings that local and shared noise have in common."""

    epsilon: Positive
    delta: float = Field(ge=1e-12, lt=0.5)
    clip_norm: Positive = Field(
        1.0,
        description="Greatest L2 norm of a record's gradient; with clip_quantile, that of round 1.",
    )
    clip_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Adapt the clip norm so that this share of the gradients is within it.",
    )
    metrics_epsilon: Positive | None = Field(
        None,
        description="Budget of held-out records, whose counts are then noised; default: exact "
        "counts.",
    )
    metrics_every: int = Field(
        1,
        ge=1,
        description="Number of rounds between evaluations; the last round is always evaluated.",
    )
    describe_epsilon: Positive | None = Field(
        None,
        exclude_if=unless(None),
        description="Budget of `blindsum describe`, on top of epsilon: its run is a job of its "
        "own.",
    )
    test_seed: int | None = Field(
        None,
        ge=0,
        description="Draw noise and samples from this publicly known seed: for tests, NOT private.",
    )


class LocalNoise(_Noise):
    """Record-level DP-SGD inside every silo (Abadi et al., CCS 2016)."""

    noise: Literal["local"]
    noise_multiplier: float | None = Field(
        None,
        ge=0.2,
        le=1000,
        description="Fixes the noise multiplier; the run then stops where the budget ends.",
    )


class SharedNoise(_Noise):
    """Record-level DP-SGD over all silos' records, with one step a round. Each silo adds a share of
    the noise, in total as much as one trusted server would add
    (`blindsum.platform.privacy.shared_noise`)."""

    noise: Literal["shared"]
    colluders: int = Field(
        1,
        ge=0,
        le=63,
        description="Number of silos that may collude; the other silos' noise alone suffices.",
    )


class NoNoise(Section):
    """No differential privacy, for comparisons. Every output says so."""

    noise: Literal["none"]
    metrics_every: int = Field(
        1,
        ge=1,
        exclude_if=unless(1),
        description="As with noise: the evaluations of a long run cost time.",
    )


Privacy = Annotated[LocalNoise | SharedNoise | NoNoise, Field(discriminator="noise")]

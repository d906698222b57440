"""The average of the rounds' models that a run evaluates, saves and releases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from blindsum.platform.job.section import Section


class Polynomial(Section):
    """Polynomial-decay averaging: about the newest 1 / (eta + 1) of the rounds count."""

    kind: Literal["polynomial"]
    eta: float = Field(
        8.0, ge=0, le=1000, description="0 is the plain mean; larger values forget earlier rounds."
    )


class Exponential(Section):
    """Exponential moving average: about the newest 1 / (1 - decay) rounds count."""

    kind: Literal["exponential"]
    decay: float = Field(0.9, ge=0, le=0.9999, description="The weight that each round keeps.")


class NoAverage(Section):
    """The last round's model."""

    kind: Literal["none"]


def described(average: Polynomial | Exponential | NoAverage) -> str:
    """Return in words what is released."""
    if average.kind == "none":
        return "the newest model, no average"
    how = f"eta {average.eta:g}" if average.kind == "polynomial" else f"decay {average.decay:g}"
    return f"{average.kind} average of the rounds' models, {how}"


Average = Annotated[Polynomial | Exponential | NoAverage, Field(discriminator="kind")]
DEFAULT = Polynomial(kind="polynomial")
LAST = NoAverage(kind="none")

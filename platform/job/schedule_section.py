"""How the learning rate changes from round to round: public, the same in every silo."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from blindsum.platform.job.section import Section


class _Warming(Section):
    warmup: int = Field(
        0, ge=0, le=100_000, description="Rounds in which the rate grows evenly to its full size."
    )

    def of_round(self, round: int, rounds: int) -> float:
        """Return the factor of the learning rate in a round, above 0 and at most 1.

        Args:
            round: from 1.
            rounds: how many the job has.
        """
        if round <= self.warmup:
            return round / (self.warmup + 1)
        done = (round - self.warmup - 1) / max(rounds - self.warmup - 1, 1)
        # Silos on different processors must get the same number from a cosine or a power.
        return float(f"{self._after_warmup(done, round - self.warmup):.9f}")

    def _after_warmup(self, done: float, round: int) -> float:
        """Return the factor after the warm-up.

        Args:
            done: the share of the rounds after it that is over, from 0 to 1.
            round: the round after it, from 1.
        """
        return 1.0


class Constant(_Warming):
    """The same rate in every round."""

    kind: Literal["constant"]


class _Falling(_Warming):
    floor: float = Field(0.01, ge=1e-6, le=1, description="Factor of the last round.")


class Cosine(_Falling):
    """A half cosine from the full rate to the floor (Loshchilov and Hutter, ICLR 2017, without
    restarts)."""

    kind: Literal["cosine"]

    def _after_warmup(self, done: float, round: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


class LinearDecay(_Falling):
    """A straight line from the full rate to the floor."""

    kind: Literal["linear"]

    def _after_warmup(self, done: float, round: int) -> float:
        return 1 - (1 - self.floor) * done


class Step(_Warming):
    """A smaller rate every so many rounds."""

    kind: Literal["step"]
    every: int = Field(ge=1, le=100_000, description="Rounds with the same rate.")
    factor: float = Field(0.5, gt=0, lt=1, description="Factor of the rate from one to the next.")

    def _after_warmup(self, done: float, round: int) -> float:
        return max(self.factor ** ((round - 1) // self.every), 1e-6)


CONSTANT = Constant(kind="constant")
Schedule = Annotated[Constant | Cosine | LinearDecay | Step, Field(discriminator="kind")]

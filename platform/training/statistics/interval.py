"""A figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95
DEVIATIONS = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""How far an interval of LEVEL reaches, for a normal error. `evaluation`, which has it too, stands
above this room."""


@dataclass(frozen=True)
class Figure:
    """A figure with its interval of LEVEL. Both ends are the value if it is exact; NaN if the noise
    hides it."""

    value: float
    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether there is no noise."""
        return self.low == self.high

"""What an attack achieved: a figure, its interval, and what a guess without the secret gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

Defence = Literal["none", "dp", "encrypted", "both"]
DEFENCES: tuple[Defence, ...] = ("none", "dp", "encrypted", "both")
CONFIDENCE = 0.95


def alike(defence: Defence) -> tuple[Defence, Defence]:
    """That defence without and with encryption: who is meant to see the model sees no difference."""
    return ("none", "encrypted") if defence == "none" else ("dp", "both")


@dataclass(frozen=True)
class Figure:
    """One score, with its interval at 95 % where it is an estimate, and the floor: the same
    score of an attacker who has only what is public. `less`: the smaller, the stronger the attack."""

    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    less: bool = False

    @property
    def above_floor(self) -> bool:
        """Whether the attack did better than a guess: the interval, or the value, lies beyond it."""
        if self.less:
            most = self.value if self.high is None else self.high
            return self.floor is not None and most < self.floor
        least = self.value if self.low is None else self.low
        return self.floor is not None and least > self.floor


@dataclass(frozen=True)
class Evidence:
    """One attack under one defence. `records` and `queries` are the attacker's budget."""

    attack: str
    adversary: str
    defence: Defence
    checkpoint: str
    figures: dict[str, Figure]
    setting: str = ""
    seconds: float = 0.0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for `audit.json`."""
        return asdict(self)


@dataclass
class Findings:
    """All evidence of one audit, and what could not be tested and why."""

    evidence: list[Evidence] = field(default_factory=list)
    not_tested: list[str] = field(default_factory=list)


def proportion(hits: int, of: int, floor: float | None = None, among: int = 1) -> Figure:
    """A share with its exact interval (Clopper and Pearson, 1934).

    Args:
        among: how many shares the worst of is looked at: the interval holds for all together (Bonferroni).
    """
    if of == 0:
        return Figure(0.0, 0.0, 1.0, floor)
    tail = (1 - CONFIDENCE) / 2 / among
    low = float(stats.beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Figure(hits / of, low, high, floor)


def average(
    values: Sequence[float], floor: float | None = None, *, least: float = 0.0, most: float = 1.0
) -> Figure:
    """A mean over repetitions, between `least` and `most`, with Student's interval."""
    mean = float(np.mean(values))
    if len(values) == 1:  # says nothing of how far off it is
        return Figure(mean, least, most, floor)
    reach = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Figure(mean, max(mean - reach, least), min(mean + reach, most), floor)

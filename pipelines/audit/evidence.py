"""Evidence of what an attack achieved: figures, their intervals, and the floor of a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

Defence = Literal["none", "dp", "encrypted", "both"]
DEFENCES: tuple[Defence, ...] = ("none", "dp", "encrypted", "both")
NAMED: dict[Defence, str] = {
    "none": "no protection",
    "dp": "privacy only",
    "encrypted": "encryption only",
    "both": "both",
}
CONFIDENCE = 0.95


def alike(defence: Defence) -> tuple[Defence, Defence]:
    """Return a defence without and with encryption.

    Encryption makes no difference to an attacker who is meant to see the model.
    """
    return ("none", "encrypted") if defence == "none" else ("dp", "both")


@dataclass(frozen=True)
class Figure:
    """One score, with its 95 % interval where it is an estimate, and its floor.

    The floor is the score of an attacker who has only public knowledge. `less` means that a smaller
    score is a stronger attack; `unit` is that of the score, empty for shares from 0 to 1.
    """

    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    less: bool = False
    unit: str = ""

    @property
    def is_share(self) -> bool:
        """Whether the score is a share from 0 to 1."""
        return not self.less and not self.unit

    @property
    def above_floor(self) -> bool:
        """Whether the attack beat the floor with its whole interval, or with its value if none."""
        if self.less:
            most = self.value if self.high is None else self.high
            return self.floor is not None and most < self.floor
        least = self.value if self.low is None else self.low
        return self.floor is not None and least > self.floor

    @property
    def undecided(self) -> bool:
        """Whether the attack beat the floor with its value, but not with its whole interval."""
        if self.floor is None or self.above_floor:
            return False
        return self.value < self.floor if self.less else self.value > self.floor


@dataclass(frozen=True)
class Evidence:
    """One attack under one defence, on one checkpoint of the model.

    `setting` describes the attack's setting, such as its batch size; `seconds` is its duration.
    """

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
    """All evidence of one audit, and a list of what was not tested and why."""

    evidence: list[Evidence] = field(default_factory=list)
    not_tested: list[str] = field(default_factory=list)


def proportion(hits: int, of: int, floor: float | None = None, among: int = 1) -> Figure:
    """Return a share with its exact interval (Clopper and Pearson, 1934).

    Args:
        among: number of shares whose worst is reported: the interval holds for all of them at once
            (Bonferroni).
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
    """Return a mean over repetitions, between `least` and `most`, with Student's interval."""
    mean = float(np.mean(values))
    if len(values) == 1:  # one value shows no spread
        return Figure(mean, least, most, floor)
    reach = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Figure(mean, max(mean - reach, least), min(mean + reach, most), floor)

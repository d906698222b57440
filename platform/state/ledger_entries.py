"""What stands in a ledger, and how a table is known there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "reserve",
    "charge",
    "reserve held-out",
    "charge held-out",
    "unprotected",
    "attempt",
    "limit",
    "identity",
    "approve",
    "begun",
]
EARLIER = (
    "reserve",
    "charge",
    "reserve held-out",
    "charge held-out",
    "unprotected",
    "limit",
    "identity",
)
"""Kinds that ledgers of earlier versions hold."""

Records = Literal["", "held-out"]
"""Which records a charge is for: those of training, or those held out. None is both in a job."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `time` is seconds since 1970, UTC; `plan` is what was reserved or
    approved; `roster` the silos of an attempt, in the job's order."""

    kind: Kind
    time: float
    job: str
    silo: str
    dataset: str
    round: int
    attempt: int
    epsilon: float | None  # None: without bound
    delta: float
    plan: dict[str, Any] | None = None
    roster: Sequence[str] | None = None

    def canonical(self) -> str:
        """Return the entry as JSON with sorted keys, the text that is hashed and signed."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Dataset:
    """A table as a ledger knows it.

    `name` stands in new entries: the owner's name for it, or without an owner's file its
    fingerprint. What was spent under any of `known` is its spend too: other names, or the
    fingerprint as earlier versions computed it. `fingerprint` is of its records as they are now.
    """

    name: str
    known: frozenset[str] = frozenset()
    fingerprint: str = ""

    def __contains__(self, written: object) -> bool:
        return written == self.name or written in self.known


@dataclass(frozen=True)
class Attempt:
    """A round's attempt as a run noted it last; (0, 0) and no roster before the first."""

    round: int = 0
    attempt: int = 0
    roster: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lifetime:
    """What a dataset has spent over all jobs, by basic composition (Dwork and Roth, 2014,
    theorem 3.16): epsilons and deltas add up."""

    jobs: int
    epsilon: float
    delta: float

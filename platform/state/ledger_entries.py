"""The entries of a ledger, and the names by which it knows a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
    "revoke",
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
"""The kinds of entries that ledgers of earlier versions contain."""

Records = Literal["", "held-out"]
"""The records that a charge is for: training records ("") or held-out records. In one job no record
is both."""


@dataclass(frozen=True)
class Entry:
    """One entry of the ledger. `time` is in seconds since 1970, UTC; `plan` is the reserved plan or
    the approval; `roster` lists the silos of an attempt, in the job's order."""

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
        return json.dumps(vars(self), sort_keys=True)


@dataclass(frozen=True)
class Dataset:
    """A table as a ledger knows it.

    New entries use `name`: the owner's name for the table, or without an owner's file its
    fingerprint. Spend recorded under any of `known` also counts as its spend: other names, or the
    fingerprint as earlier versions computed it. `fingerprint` is that of its current records.
    """

    name: str
    known: frozenset[str] = frozenset()
    fingerprint: str = ""

    def __contains__(self, written: object) -> bool:
        return written == self.name or written in self.known


@dataclass(frozen=True)
class Attempt:
    """The last attempt that a run recorded; (0, 0) and no roster before the first."""

    round: int = 0
    attempt: int = 0
    roster: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lifetime:
    """A dataset's spend over all jobs, by basic composition (Dwork and Roth, 2014, theorem 3.16):
    epsilons and deltas add up."""

    jobs: int
    epsilon: float
    delta: float

"""What a failed attempt's next one goes without, and has anew. Decides; the federation carries it out.

An attempt is never repeated: the next one has a fresh sample, fresh noise, fresh masks and a charge of its
own. An update that was sent under one roster is never sent under another: the difference of the
two totals would be one silo's update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    DataError,
    LedgerError,
    SiloLost,
    SiloRefused,
    TotalRefused,
)

MOST_REFUSED = 1
"""Refused totals in one round that another attempt may follow: each tells an active aggregator a little."""

MOST_AGGREGATORS = 2
"""Lost aggregators in one round that another attempt may follow."""

_AT_A_SILO = (SiloLost, SiloRefused, LedgerError, DataError)
"""That one silo is gone, was refused, or cannot go on: a full disk, a ledger. Not that it refuses what it was
told."""


@dataclass(frozen=True)
class Recovery:
    """`without`: silos that are left out from now on. `keys`, `aggregators`: made anew."""

    without: tuple[str, ...] = ()
    keys: bool = False
    aggregators: bool = False


def recovery(
    error: BlindsumError, roster: Sequence[str], quorum: int, failures: Counter[str]
) -> Recovery | None:
    """How the round goes on, or None if the run ends.

    Args:
        quorum: the fewest silos of a round.
        failures: earlier ones of this round, by kind; this one is counted in.
    """
    failures[type(error).__name__] += 1
    if isinstance(error, TotalRefused):
        if failures["TotalRefused"] <= MOST_REFUSED:
            return Recovery(keys=True)
        error.mend = "It happened again under new keys: an aggregator alters sums. End this run."
        return None
    if isinstance(error, AggregatorLost):
        again = failures["AggregatorLost"] <= MOST_AGGREGATORS
        return Recovery(keys=True, aggregators=True) if again else None
    if not isinstance(error, _AT_A_SILO) or error.silo is None:
        return None
    if failures["left out"]:
        return None  # silos let the roster shrink once a round
    failures["left out"] = 1
    without = tuple(name for name in error.silo.split(", ") if name in roster)
    enough = without and len(roster) - len(without) >= quorum
    return Recovery(without) if enough else None

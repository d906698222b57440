"""The decision how a round continues after a failed attempt. The federation carries it out.

An attempt is never repeated: the next one has a fresh sample, fresh noise, fresh masks and its own
charge. An update that was sent under one roster is never sent under another, because the difference
of the two totals would be one silo's update.
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
"""The most refused totals in one round after which it is attempted again. Each refusal reveals a
little to an active aggregator."""

MOST_AGGREGATORS = 2
"""The most lost aggregators in one round after which it is attempted again."""

_AT_A_SILO = (SiloLost, SiloRefused, LedgerError, DataError)
"""Errors that remove one silo: it died, its upload was refused, or its disk or ledger failed. A
silo that refuses an instruction is not among them: that ends the run."""


@dataclass(frozen=True)
class Recovery:
    """How a round continues: `without` these silos, which are dropped for the rest of the run, and
    with new `keys` or new `aggregators`."""

    without: tuple[str, ...] = ()
    keys: bool = False
    aggregators: bool = False


def recovery(
    error: BlindsumError, roster: Sequence[str], quorum: int, failures: Counter[str]
) -> Recovery | None:
    """Return how the round continues, or None if the run ends.

    Args:
        quorum: the fewest silos of a round.
        failures: the round's earlier failures, by kind; this failure is added.
    """
    failures[type(error).__name__] += 1
    if isinstance(error, TotalRefused):
        if failures["TotalRefused"] <= MOST_REFUSED:
            return Recovery(keys=True)
        error.hint = "This happened again under new keys: an aggregator alters sums. End this run."
        return None
    if isinstance(error, AggregatorLost):
        again = failures["AggregatorLost"] <= MOST_AGGREGATORS
        return Recovery(keys=True, aggregators=True) if again else None
    if not isinstance(error, _AT_A_SILO) or error.silo is None:
        return None
    if failures["left out"]:
        return None  # silos allow the roster to shrink only once a round
    failures["left out"] = 1
    without = tuple(name for name in error.silo.split(", ") if name in roster)
    enough = without and len(roster) - len(without) >= quorum
    return Recovery(without) if enough else None

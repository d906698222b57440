"""What it means to the federation that a call had some outcome."""

from __future__ import annotations

from typing import Any

from blindsum.actors.cluster import Answered, Died, InputLost, Outcome, Raised
from blindsum.actors.handles import is_aggregator
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    ClusterError,
    FederationError,
    SiloLost,
    Unexpected,
)

_LOGS = "Look at its node's memory and logs."


def value_of(outcome: Outcome, peer: str, doing: str) -> Any:
    """Return what a peer answered.

    Args:
        doing: what it was asked to do, for the error.

    Raises:
        SiloLost, AggregatorLost: its process died, or that of an aggregator it needed.
        ClusterError: it never started.
        BlindsumError: what the peer raised.
        Unexpected: the peer raised something else: a fault of Blindsum.
    """
    if isinstance(outcome, Answered):
        return outcome.value
    if isinstance(outcome, Raised):
        if isinstance(outcome.error, BlindsumError):
            raise outcome.error from None
        raise Unexpected(
            f"'{peer}' failed with {type(outcome.error).__qualname__} while asked to {doing}",
            "This is a fault in Blindsum: please report it.",
        )
    if isinstance(outcome, InputLost):
        # Silos have their inputs from aggregators. (An aggregator has its own from silos, and a
        # silo that died is found by its own answer first, or in the next attempt.)
        raise AggregatorLost("an aggregator's process died", _LOGS)
    if isinstance(outcome, Died):
        raise lost(peer, doing) if outcome.started else _never_started(peer, outcome.reason)
    raise FederationError(f"'{peer}' gave no answer: {outcome.reason}")


def lost(peer: str, doing: str) -> FederationError:
    """The error of a peer whose process died."""
    if is_aggregator(peer):
        return AggregatorLost(f"{peer}'s process died", _LOGS)
    return SiloLost(
        f"its process died while asked to {doing}",
        "Look at that node's memory and logs, then start the job again.",
        silo=peer,
    )


def _never_started(peer: str, reason: str) -> ClusterError:
    return ClusterError(
        f"'{peer}' could not start on its node ({reason})",
        "The node needs the same blindsum, with its dependencies, as the driver.",
    )

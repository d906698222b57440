"""Turns the outcome of a call into its value or into the federation's error."""

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
    """Return a peer's answer.

    Args:
        doing: what the peer was asked to do, for the error.

    Raises:
        SiloLost, AggregatorLost: the peer's process, or that of an aggregator it needed, died.
        ClusterError: the peer never started.
        BlindsumError: the peer raised this error.
        Unexpected: the peer raised another exception, which is a fault in Blindsum.
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
        # Silos get their inputs from aggregators. (Aggregators get theirs from silos, but a silo
        # that died is detected by its own answer first, or in the next attempt.)
        raise AggregatorLost("an aggregator's process died", _LOGS)
    if isinstance(outcome, Died):
        if not outcome.started:
            raise _never_started(peer, outcome.reason)
        raise _lost_together(outcome.together, doing) if outcome.together else lost(peer, doing)
    raise FederationError(f"'{peer}' did not answer when asked to {doing}: {outcome.reason}")


def lost(peer: str, doing: str) -> FederationError:
    """Return the error for a peer whose process died."""
    if is_aggregator(peer):
        return AggregatorLost(f"{peer}'s process died", _LOGS)
    return SiloLost(
        f"its process died while asked to {doing}",
        "Look at that node's memory and logs, then start the job again.",
        silo=peer,
    )


def _lost_together(silos: tuple[str, ...], doing: str) -> SiloLost:
    """Return the error for silos that shared a process, which died."""
    return SiloLost(
        f"the process that they shared (simulation.silos_per_process) died while asked to {doing}, "
        "and all of them are lost with it",
        "Look at that node's memory and logs, lower simulation.silos_per_process or leave it out, "
        "then start the job again.",
        silo=", ".join(silos),
    )


def _never_started(peer: str, reason: str) -> ClusterError:
    return ClusterError(
        f"'{peer}' could not start on its node ({reason})",
        "The node needs the driver's version of blindsum, with its dependencies.",
    )

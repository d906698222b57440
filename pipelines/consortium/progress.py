"""A run's rounds as this silo's audit log records them, while the run goes on and afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from blindsum.platform.state.audit_log import Event

Step = Literal["training", "update sent", "completed", "failed"]


@dataclass(frozen=True, kw_only=True)
class AttemptedRound:
    """One attempt at a round at this silo.

    Attributes:
        began, last: when it was charged and when its newest event happened, seconds since 1970.
        epsilon: the job's epsilon so far; None without differential privacy.
        step: "completed" once the silo has applied the total and sent its metrics; "failed" if a
            later attempt or round began before that.
    """

    round: int
    attempt: int
    began: float
    last: float
    epsilon: float | None
    step: Step


def rounds_of(events: Iterable[Event]) -> list[AttemptedRound]:
    """Return the attempts in one run's events, oldest first."""
    found: dict[tuple[int, int], AttemptedRound] = {}
    for event in events:
        key = event.round, event.attempt
        if event.kind == "charged":
            found[key] = AttemptedRound(
                round=event.round,
                attempt=event.attempt,
                began=event.time,
                last=event.time,
                epsilon=event.detail.get("epsilon"),
                step="training",
            )
        elif event.kind == "sent" and key in found:
            done = event.detail.get("purpose") == "metrics"
            step: Step = "completed" if done else "update sent"
            found[key] = replace(found[key], last=event.time, step=step)
    attempts = list(found.values())
    for i, one in enumerate(attempts[:-1]):
        if one.step != "completed":
            attempts[i] = replace(one, step="failed")
    return attempts

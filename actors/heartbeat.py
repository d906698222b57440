"""Signs of life of silos that read their data, which may take longer than a deadline.

While a silo is awaited, it is asked once a second how far it is. One that says that it is at work
is waited for; one that is silent for the deadline is lost. What a silo says is its own word, so
there is an end to that too: its share must grow within MOST_DEADLINES deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from blindsum.actors.cluster import Answered, Handle, Outcome
from blindsum.actors.codec import decoded
from blindsum.actors.handles import SiloHandle
from blindsum.actors.silo_messages import Progress
from blindsum.platform.errors import FederationError

BEAT_S = 1.0
MOST_DEADLINES = 10

Told = Callable[[Mapping[str, int]], None]
"""Called with the percents of the silos that are at work, when one of them changes."""


@dataclass
class _Sign:
    """What was heard of one silo, and when."""

    heard: float
    grew: float
    ask_at: float
    percent: int | None = None


class Heartbeats:
    """The signs of life of silos that were asked to do something long.

    Args:
        silos: the silos by name; it may shrink.
        deadline_s: the time after which a silent silo is lost.
    """

    def __init__(self, silos: Mapping[str, SiloHandle], deadline_s: float, told: Told) -> None:
        self._silos, self.deadline_s, self._told = silos, deadline_s, told
        now = time.monotonic()
        self._signs = {name: _Sign(now, now, now + BEAT_S) for name in silos}
        self._asked: dict[Handle, str] = {}
        self._last: dict[str, int] = {}

    def ask(self, awaited: Collection[str]) -> list[Handle]:
        """Ask those silos whose turn it is; returns handles of all answers that are to come."""
        now = time.monotonic()
        asked = set(self._asked.values())
        for name in awaited:
            if name not in asked and self._signs[name].ask_at <= now:
                self._asked[self._silos[name].progress().handle] = name
        self._tell(awaited)
        return [handle for handle, name in self._asked.items() if name in awaited]

    def hear(self, handle: Handle, outcome: Outcome) -> None:
        """Take an answer. One that is no sign of work changes nothing."""
        now = time.monotonic()
        sign = self._signs[self._asked.pop(handle)]
        sign.ask_at = now + BEAT_S
        if not isinstance(outcome, Answered):
            return
        try:
            progress = decoded(outcome.value, Progress)
        except FederationError:
            return
        if not progress.at_work:
            return
        sign.heard = now
        if sign.percent is None or progress.percent > sign.percent:
            sign.percent, sign.grew = progress.percent, now

    def lost(self, awaited: Collection[str]) -> tuple[list[str], float]:
        """Return which of those silos are lost, and the time that was not enough for them."""
        now, longest_s = time.monotonic(), MOST_DEADLINES * self.deadline_s
        silent = [one for one in awaited if now - self._signs[one].heard >= self.deadline_s]
        if silent:
            return silent, self.deadline_s
        return [one for one in awaited if now - self._signs[one].grew >= longest_s], longest_s

    def due(self, awaited: Collection[str]) -> float:
        """Return when, at the latest, there is something to do, by `time.monotonic`."""
        asked = set(self._asked.values())
        times = [sign.heard + self.deadline_s for sign in map(self._signs.__getitem__, awaited)]
        times += [self._signs[one].ask_at for one in awaited if one not in asked]
        return min(times)

    def _tell(self, awaited: Collection[str]) -> None:
        known = {one: percent for one in awaited if (percent := self._signs[one].percent)}
        if known and known != self._last:
            self._last = known
            self._told(known)

"""Waiting for answers of silos and aggregators: deadlines, interrupts, who is late."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError, RayError

from blindsum.actors.answers import fetch
from blindsum.platform.errors import AggregatorLost, FederationError, SiloLost

POLL_S = 1.0
DEAD_TOGETHER_S = 3.0
"""Ray notices a killed process within about 2 s."""


class Waiting:
    """Waits for references that are known by a silo's or an aggregator's name.

    Args:
        interrupted: set by a signal's handler. Python can lose a KeyboardInterrupt that is
            raised inside a destructor, and Ray has many; this is looked at once a second.
    """

    def __init__(self, interrupted: threading.Event) -> None:
        self._interrupted = interrupted

    def gather(
        self, refs: Mapping[str, ObjectRef[Any]], doing: str, deadline_s: float
    ) -> dict[str, Any]:
        """Answers by name, in the order of `refs`. The first failure ends the waiting.

        Raises:
            SiloLost, AggregatorLost: a process died or the deadline passed.
            BlindsumError: what the silo or the aggregator raised.
        """
        names = {ref: name for name, ref in refs.items()}
        answers: dict[str, Any] = {}
        end = time.monotonic() + deadline_s
        waiting = list(names)
        while waiting:
            done, waiting = self._wait(waiting, 1, end)
            if not done:
                raise late([names[ref] for ref in waiting], doing, deadline_s)
            for ref in done:
                answers[names[ref]] = fetch(ref, names[ref], doing)
        return {name: answers[name] for name in refs}

    def settle(self, refs: Mapping[str, list[ObjectRef[Any]]], deadline_s: float) -> None:
        """Wait until those calls have ended, whatever their answers: the next ones find idle actors.

        Raises:
            SiloLost, AggregatorLost: some did not in time.
        """
        names = {ref: name for name, of in refs.items() for ref in of}
        end = time.monotonic() + deadline_s
        waiting = list(names)
        while waiting:
            done, waiting = self._wait(waiting, len(waiting), end)
            if not done:
                raise late([names[ref] for ref in waiting], "end the attempt", deadline_s)

    def dead(self, pings: Mapping[str, ObjectRef[Any]]) -> list[str]:
        """Those whose process is gone, of some that were asked for a sign of life.

        Whoever gives none within DEAD_TOGETHER_S counts as alive: a deadline will tell.
        """
        names = {ref: name for name, ref in pings.items()}
        if not names:
            return []
        done, _ = ray.wait(list(names), num_returns=len(names), timeout=DEAD_TOGETHER_S)
        found = []
        for ref in done:
            try:
                ray.get(ref)
            except RayActorError:
                found.append(names[ref])
            except RayError:
                continue
        return found

    def _wait(
        self, refs: list[ObjectRef[Any]], count: int, end: float
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Some that have ended, unless time is up, and the others."""
        while True:
            left = end - time.monotonic()
            pause = max(0.0, min(left, POLL_S))
            done, waiting = ray.wait(refs, num_returns=count, timeout=pause)
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if done or left <= POLL_S:
                return done, waiting


def late(names: list[str], doing: str, deadline_s: float) -> FederationError:
    """Who did not answer in time. Silos first: an aggregator waits for them."""
    silos = list(dict.fromkeys(name for name in names if " " not in name))
    what = f"no answer within {deadline_s:g} s when asked to {doing}"
    mend = "Look at that node, or raise deadlines.start_s or deadlines.round_s."
    if silos:
        return SiloLost(what, mend, silo=", ".join(silos))
    return AggregatorLost(f"{names[0]}: {what}", mend)

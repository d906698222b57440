"""A silo's sign of life while it reads its data: the share that is done."""

from __future__ import annotations

import threading
import time

from blindsum.actors.silo_messages import Progress

STEP = 5
"""The share is told in steps of 5 %: neither it nor the number of its steps depends on how many
records a silo has."""
TOLD_S = 1.0
"""The share that is told changes at most so often. A silo reads its first 1, 3, 7, ... records one
batch after the other; whoever saw the share after each of them could compute the number of all."""
AT_WORK_S = 10.0
"""A silo counts as at work for so long after each step. Steps take about half a second, so that
answers do not show them either: their number would tell that of the records."""


class Work:
    """What a silo says about one piece of work, from another thread than the one that does it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._share, self._stepped, self._moved = 0.0, float("-inf"), float("-inf")

    def step(self, share: float) -> None:
        """Note that the work went on, and its share done, 0 to 1."""
        with self._lock:
            now = self._stepped = time.monotonic()
            if now - self._moved >= TOLD_S:
                self._share, self._moved = share, now

    def progress(self) -> Progress:
        """Return how far the work is, as others may know it."""
        with self._lock:
            percent = int(self._share * 100) // STEP * STEP
            at_work = time.monotonic() - self._stepped < AT_WORK_S
        return Progress(percent=min(max(percent, 0), 100), at_work=at_work)

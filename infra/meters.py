"""A run's figures for Prometheus, through Ray's exporter on the driver's node.

They are the public figures that MLflow receives too. Ray prefixes their names, as in
`ray_blindsum_rounds_total`; docs/operations.md lists them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

REFRESH_S = 5.0
"""Seconds between settings of a gauge. Ray drops a gauge that is not set again within two of its
export intervals of ten seconds."""


class Meters:
    """The figures of one run. Close it when the run ends.

    Args:
        job, run: names of job and run, which become tags of every figure.
    """

    def __init__(self, job: str, run: str) -> None:
        self._tags = {"job_name": job, "run": run}
        keys = ("job_name", "run")
        self._rounds = Counter("blindsum_rounds", "Completed rounds.", keys)
        self._attempts = Counter(
            "blindsum_attempts", "Attempts at rounds, including failed ones.", keys
        )
        self._up = Counter("blindsum_bytes_up", "Ciphertext sent by silos, bytes.", keys)
        self._down = Counter("blindsum_bytes_down", "Ciphertext sent to silos, bytes.", keys)
        self._silos = Gauge("blindsum_silos", "Silos that still take part.", keys)
        self._left = Gauge(
            "blindsum_epsilon_left", "Epsilon a silo may still spend.", (*keys, "silo")
        )
        self._seconds = Gauge(
            "blindsum_phase_seconds",
            "Seconds of the last round by phase, for the slowest silo.",
            (*keys, "phase"),
        )
        self._set: dict[tuple[Gauge, str, str], float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._refresh, name="meters", daemon=True).start()

    def round(
        self,
        attempts: int,
        silos: int,
        up: int,
        down: int,
        phases: Mapping[str, float],
        left: Mapping[str, float],
    ) -> None:
        """Record a completed round.

        Args:
            attempts: number of attempts at the round.
            silos: number of silos in the round.
            up, down: bytes of ciphertext sent by silos and to silos.
            phases: seconds by phase.
            left: remaining epsilon by silo.
        """
        for counter, value in (
            (self._rounds, 1),
            (self._attempts, attempts),
            (self._up, up),
            (self._down, down),
        ):
            if value:
                counter.inc(value, self._tags)
        with self._lock:
            self._set = {(self._silos, "", ""): silos}  # replaced, so that lost silos disappear
            self._set |= {(self._seconds, "phase", name): value for name, value in phases.items()}
            self._set |= {(self._left, "silo", name): value for name, value in left.items()}
        self._tell()

    def close(self, attempts: int = 0) -> None:
        """End the run's gauges. Its counters remain as long as Ray runs.

        Args:
            attempts: number of attempts at a round that was not completed.
        """
        if attempts:
            self._attempts.inc(attempts, self._tags)
        self._closed.set()

    def _refresh(self) -> None:
        while not self._closed.wait(REFRESH_S):
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            for (gauge, key, value), figure in self._set.items():
                gauge.set(figure, self._tags | ({key: value} if key else {}))

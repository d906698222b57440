"""A run's figures for Prometheus, through Ray's own exporter on the driver's node.

Public figures alone, those that MLflow gets. Names as Ray exports them, from `ray_blindsum_rounds_total` on;
docs/operations.md has the list.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

REFRESH_S = 5.0
"""Ray forgets a gauge that is not set again within two of its export intervals of ten seconds."""


class Meters:
    """Those of one run. Close it when the run ends.

    Args:
        job, run: names; tags of every figure.
    """

    def __init__(self, job: str, run: str) -> None:
        self._tags = {"job_name": job, "run": run}
        keys = ("job_name", "run")
        self._rounds = Counter("blindsum_rounds", "Rounds that ended.", keys)
        self._attempts = Counter("blindsum_attempts", "Attempts at rounds, failed ones too.", keys)
        self._up = Counter("blindsum_bytes_up", "Ciphertext sent by silos, bytes.", keys)
        self._down = Counter("blindsum_bytes_down", "Ciphertext sent to silos, bytes.", keys)
        self._silos = Gauge("blindsum_silos", "Silos that are left.", keys)
        self._left = Gauge(
            "blindsum_epsilon_left", "Epsilon a silo may still spend.", (*keys, "silo")
        )
        self._seconds = Gauge(
            "blindsum_phase_seconds",
            "Seconds of the last round by phase, the slowest silo's.",
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
        """A round ended.

        Args:
            attempts: made in it.
            phases: seconds by phase; `left`: epsilon by silo.
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
            self._set = {(self._silos, "", ""): silos}  # of a silo that was lost nothing is left
            self._set |= {(self._seconds, "phase", name): value for name, value in phases.items()}
            self._set |= {(self._left, "silo", name): value for name, value in left.items()}
        self._tell()

    def close(self, attempts: int = 0) -> None:
        """The run has ended: its gauges go, its counters stay as long as Ray does.

        Args:
            attempts: at a round that did not end.
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

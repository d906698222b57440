"""Events as JSON lines, for machines that gather logs: one object a line, with job, run, silo, round and attempt.

Nothing is written until `start` says where. What may stand in a line is listed in PUBLIC: names that are not in it
are dropped, so that no record or key gets into a log by being at hand.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog

PUBLIC = frozenset(
    {
        "attempt",
        "bytes_down",
        "bytes_up",
        "digest",
        "epsilon",
        "error",
        "event",
        "held_out",
        "identities",
        "job",
        "job_digest",
        "ledger",
        "left",
        "level",
        "lost",
        "model",
        "purpose",
        "roster",
        "round",
        "rounds",
        "run",
        "said",
        "seconds",
        "silo",
        "silos",
        "status",
        "time",
        "who",
    }
)
"""Names of what a line may say: all of it public, as messages between silos and driver are."""

_everywhere: TextIO | None = None


def start(stream: TextIO | None = None) -> None:
    """Write all events of this process from now on: to stderr, which in a Ray actor is a file of its node's
    logs.

    Args:
        stream: where else.
    """
    global _everywhere
    _everywhere = stream or sys.stderr


def stop() -> None:
    """Write no more."""
    global _everywhere
    _everywhere = None


class Log:
    """Says what happens, bound to who says it. Writes where `to` says, or else where `start` does.

    Args:
        bound: names of PUBLIC that stand in every line.
    """

    def __init__(self, **bound: str) -> None:
        self._bound = bound
        self._stream: TextIO | None = None

    def to(self, stream: TextIO) -> None:
        """Write into this file from now on."""
        self._stream = stream

    def say(self, event: str, **public: object) -> None:
        """Write one line. A log that cannot be written ends nothing."""
        stream = self._stream or _everywhere
        if stream is None:
            return
        logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors=_PROCESSORS)
        try:
            logger.info(event, **self._bound, **public)
        except (OSError, ValueError):  # a full disk; a stream that was closed
            return


def _public_alone(_: Any, __: str, line: Any) -> Any:
    return {name: value for name, value in line.items() if name in PUBLIC}


_PROCESSORS: list[Any] = [
    _public_alone,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.JSONRenderer(sort_keys=True, default=str),
]

"""Events as JSON lines, for log collectors: one object a line, with job, run, silo, round, attempt.

Nothing is written until `start` is called. Log lines contain only fields from the fixed list
PUBLIC; other fields are dropped, so that no record or key gets into a log by accident.
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
"""Fields that a line may contain. All are public, like the messages between silos and driver."""

_everywhere: TextIO | None = None


def start(stream: TextIO | None = None) -> None:
    """Write all events of this process from now on.

    Args:
        stream: where to write. The default is stderr, which in a Ray actor is a file among the
            node's logs.
    """
    global _everywhere
    _everywhere = stream or sys.stderr


def stop() -> None:
    """Stop writing events."""
    global _everywhere
    _everywhere = None


class Log:
    """A writer of events with fixed fields. The stream is that set by `to`, or else by `start`.

    Args:
        bound: fields of PUBLIC that every line contains.
    """

    def __init__(self, **bound: str) -> None:
        self._bound = bound
        self._stream: TextIO | None = None

    def to(self, stream: TextIO) -> None:
        """Write to this stream from now on."""
        self._stream = stream

    def say(self, event: str, **public: object) -> None:
        """Write one line. A log that cannot be written does not stop the run."""
        stream = self._stream or _everywhere
        if stream is None:
            return
        logger = structlog.wrap_logger(structlog.WriteLogger(stream), processors=_PROCESSORS)
        try:
            logger.info(event, **self._bound, **public)
        except (OSError, ValueError):  # a full disk, or a closed stream
            return


def _public_alone(_: Any, __: str, line: Any) -> Any:
    return {name: value for name, value in line.items() if name in PUBLIC}


_PROCESSORS: list[Any] = [
    _public_alone,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.JSONRenderer(sort_keys=True, default=str),
]

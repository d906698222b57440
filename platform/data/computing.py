"""The means with which a silo gets its table ready: what it kept, its cores, and whom it tells."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from blindsum.platform.data.kept_results import KeptResults

Told = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1, every second or so."""


def _to_nobody(share: float) -> None:
    """Nobody waits."""


@dataclass(frozen=True)
class Computing:
    """The means of one silo.

    Attributes:
        kept: what it computed before; None to keep nothing.
        cores: the number of cores that it may use.
        told: called as the work goes on.
        scratch: the folder of files that are too large for memory and end with the process; None
            for the system's folder of temporary files.
    """

    kept: KeptResults | None = None
    cores: int = 1
    told: Told = _to_nobody
    scratch: Path | None = None

    def known(self, inputs: Sequence[str], schema: pa.Schema, rows: int) -> pa.Table | None:
        """Return what was kept, as `KeptResults.read`."""
        return self.kept.read(inputs, schema, rows) if self.kept else None

    def keep(self, inputs: Sequence[str], result: pa.Table) -> None:
        """Keep a result, as `KeptResults.write`."""
        if self.kept:
            self.kept.write(inputs, result)


ALONE = Computing()
"""One core, and nothing is kept."""


def computing_in(state: Path, threads: int | None = None, told: Told = _to_nobody) -> Computing:
    """Return the means of the silo with that state folder.

    Args:
        threads: the number of cores that it may use; None: all that this process may.
    """
    return Computing(KeptResults(state), threads or granted_cores(), told, state)


def granted_cores() -> int:
    """Return the number of cores that this process may use, by affinity and by its container's
    quota."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores

"""The stages of a run's start, with the seconds that each took and usually takes.

A text of the form "name: detail" reports progress within the stage `name`. The seconds of past
stages are kept by job in Blindsum's home folder; losing that file costs nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blindsum.pipelines.show.console import console

FILE = "stages.json"
_KEPT = 5
_MOST_JOBS = 200
_WORTH_SAYING_S = 0.5
_MOMENT_S = 0.1
"""A stage that took less leaves no line."""


def show_stage(name: str, seconds: float) -> None:
    """Print that a stage ended, on stderr."""
    if seconds >= _MOMENT_S:
        console.print(f"{name}: {seconds:.1f} s", soft_wrap=True)


class Stages:
    """The stage that a run is in.

    Args:
        job: the job's name; the usual seconds are those of its last runs. Empty: none are known.
        folder: where the seconds of past runs are kept.
        ended: called with the name and the seconds of each stage that ended.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        job: str,
        folder: Path,
        ended: Callable[[str, float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._path, self._ended, self._now = job, folder / FILE, ended, now
        self._past = _read(self._path).get(job, {}) if job else {}
        self._took: dict[str, float] = {}
        self.name, self._since = "", 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the present stage began."""
        return self._now() - self._since

    @property
    def usual(self) -> float | None:
        """Seconds that the present stage took in the job's last runs (median), if worth saying."""
        past = self._past.get(self.name)
        found = statistics.median(past) if past else 0.0
        return found if found >= _WORTH_SAYING_S else None

    def described(self, text: str) -> str:
        """Return a text about the present stage, with the seconds that it usually takes."""
        return f"{text} (usually {self.usual:.1f} s)" if self.usual else text

    def enter(self, text: str) -> bool:
        """Note a stage, or progress within it; return whether it is a new stage."""
        name = text.partition(":")[0]
        if name == self.name:
            return False
        self.leave()
        self.name, self._since = name, self._now()
        return True

    def leave(self) -> None:
        """End the present stage, if there is one."""
        if self.name:
            self._took[self.name] = self.seconds
            self._ended(self.name, self.seconds)
            self.name = ""

    def keep(self) -> None:
        """Keep the seconds of this run's stages for the next run of the job."""
        if not self._job or not self._took:
            return
        jobs = _read(self._path)
        past = jobs.pop(self._job, {})
        for name, seconds in self._took.items():
            past[name] = [*past.get(name, []), round(seconds, 2)][-_KEPT:]
        jobs[self._job] = past
        newest = dict(list(jobs.items())[-_MOST_JOBS:])
        partial = self._path.with_name(f"{FILE}.{os.getpid()}")
        with suppress(OSError):
            opened = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with open(opened, "w", encoding="utf-8") as file:
                json.dump(newest, file)
            partial.replace(self._path)


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    """Return the seconds by job and stage; nothing from a file that is not as written here."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(job): {str(name): [float(one) for one in past] for name, past in stages.items()}
            for job, stages in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}

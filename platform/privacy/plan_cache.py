"""A small cache of what follows from public settings alone: noise multipliers and epsilon tables.

Computing them takes seconds, and every silo of every run of a job computes the same ones. A file
is named by the digest of all inputs, the accountant's version among them, and begins with the
digest of its content: damage is noticed. It lies in Blindsum's home folder, beside the user's keys
and ledgers, and a file that anyone else could have written is not read. Callers say besides which
values are plausible. A file that is not used is computed again, so that it costs time and nothing
else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from blindsum.platform.job.paths import home_folder

FORMAT = 1
"""Raise it with every change of how a kept value is computed: older files are then not found."""
FOLDER = "plans"

_IN_USE: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By file: threads that need the same values wait for the first of them to compute these."""


def cached(
    inputs: Sequence[str | float | int],
    count: int,
    compute: Callable[[], list[float]],
    holds: Callable[[list[float]], bool],
) -> list[float]:
    """Return what was computed from these inputs before, or compute and keep it.

    Args:
        inputs: all that the values depend on, and what they are.
        count: of the values.
        compute: gives the values, finite floats.
        holds: whether values from the cache are plausible.
    """
    path = _path(inputs)
    with _IN_USE[str(path)]:
        values = _read(path)
        if values is not None and len(values) == count and holds(values):
            return values
        values = compute()
        if all(map(math.isfinite, values)):
            _write(path, values)
        return values


def _path(inputs: Sequence[str | float | int]) -> Path:
    # repr of a float gives it back exactly.
    text = json.dumps([FORMAT, *(repr(one) for one in inputs)])
    return home_folder() / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _read(path: Path) -> list[float] | None:
    try:
        found = path.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or found.st_size > 2**22:
            return None  # written by someone else, or by no one of ours
        digest, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        values = json.loads(content)
        if type(values) is list and all(type(v) is float and math.isfinite(v) for v in values):
            return values
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return None


def _write(path: Path, values: list[float]) -> None:
    """Write a file completely or not at all; a home that cannot be written is no reason to fail."""
    content = json.dumps(values).encode()
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            opened = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(opened, "wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)

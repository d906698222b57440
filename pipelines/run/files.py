"""Files of a run, each written completely or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file completely or not at all; returns its path.

    Raises:
        OSError: the file cannot be written; no part of it remains.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        return partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise

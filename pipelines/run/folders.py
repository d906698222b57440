"""The folder in which a run's silos find the job's files, and the folder for its results."""

from __future__ import annotations

import os
from pathlib import Path

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import results_folder


def silo_folder(job_file: JobFile) -> str:
    """Return the path under which silos find the job's folder.

    Ray copies a Ray job's working directory to every node, each time to another path. So a folder
    inside it is returned relative to the silo's working directory.
    """
    import ray

    folder = job_file.folder
    shipped = ray.get_runtime_context().runtime_env.get("working_dir")
    if shipped and folder.is_relative_to(Path.cwd()):
        return str(folder.relative_to(Path.cwd()))
    return str(folder)


def runs_folder(job_file: JobFile) -> Path:
    """Return the folder for results.

    Raises:
        JobError: the folder is not writable.
    """
    try:
        base = results_folder(job_file.folder)
        folder = (base / Path(job_file.job.runs or ".").expanduser()).absolute()
        existing = next(p for p in (folder, *folder.parents) if p.exists())
    except (OSError, RuntimeError, ValueError):
        raise JobError(f"runs: {job_file.job.runs!r} is not a path") from None
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise JobError(f"runs: {existing} is not a writable folder", "Set runs to another folder.")
    return folder

"""A run's name, the folder where its silos find the job's files, and the folder for its results."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import results_folder
from blindsum.platform.job.schema import Job


def run_name(job: Job) -> str:
    """Return a new, unique name for a run. All names of a job's runs have the same length."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # The budget comes early in the name, because MLflow shortens names.
    label = "nodp" if job.privacy.noise == "none" else f"eps{job.privacy.epsilon:g}"
    label = label if job.private or label == "nodp" else "NOT-PRIVATE-TEST"
    return f"{job.name}-{label}-{stamp}-{secrets.token_hex(3)}"


def silo_folder(job_file: JobFile) -> str:
    """Return the path under which silos find the job's folder.

    Ray copies a Ray job's working directory to every node, each time to another path. So a folder
    inside it is returned relative to the silo's working directory.
    """
    import ray

    folder = job_file.folder
    if not ray.is_initialized():  # asking for its context would start one
        return str(folder)
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

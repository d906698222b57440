"""Which jobs a silo's owner has approved: the silo's own copy of what it may take part in.

A silo is told its job by the driver. Once its owner has approved a job here, it takes part in
approved ones alone: a driver can no longer show it other pins, another budget or another roster
than its owner has read. The model's initial weights are approved with it, by their digest: weights that
were planted would sort records into gradients of their own (Fowl et al., ICLR 2022), and the code of a
`model.factory` is not in the job file. What that code computes besides its weights they do not bind: read it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from blindsum.platform.errors import JobError, LedgerError
from blindsum.platform.job import Job

_FILE = "approved_jobs.txt"


def job_digest(job: Job) -> str:
    """SHA-256 over every setting of the job, defaults included, hex."""
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()


def approve(state: Path, job: Job, weights: str) -> str:
    """Add the job to those that the silo of this state folder takes part in; its digest.

    Args:
        weights: digest of the model's initial weights, as its owner's machine builds it.

    Raises:
        LedgerError: the folder cannot be written.
    """
    digest = job_digest(job)
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(
            os.open(state / _FILE, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "a"
        ) as file:
            file.write(f"{digest} {weights} {job.name}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LedgerError(
            f"{state / _FILE} cannot be written ({error.strerror})",
            "Check that the disk has room and the folder is writable.",
        ) from None
    return digest


def require_approved(state: Path, job: Job, weights: str | None = None) -> None:
    """Raises JobError if the owner has approved jobs, and not this one, or with other weights.

    Args:
        weights: digest of the initial weights; None before the model is built, which may run a
            factory's code.
    """
    path = state / _FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read ({type(error).__name__})") from None
    of_job = [line.split(" ") for line in lines if line.startswith(job_digest(job))]
    if of_job and weights is not None and weights not in [fields[1] for fields in of_job]:
        raise JobError(
            "the model's initial weights are not those that this silo's owner approved",
            "The factory's code or torch's version differs from what the owner read, or the approval "
            "is an earlier version's; if the job is the agreed one, on the silo's machine: blindsum approve JOB --silo NAME.",
        )
    if not of_job:
        raise JobError(
            "this silo's owner has approved other jobs, and not this one",
            "Read the job file; if it is the agreed one, on the silo's machine: blindsum approve "
            "JOB --silo NAME, with the same --set as the run.",
        )

"""Weights from public records, for jobs of others to begin with: `baseline pooled
--publish-weights`.

The pooled model is trained without privacy, so its weights reveal its records. Nothing here can
tell whether records are public: the user says so. Tables that an owner's file governs are refused,
because they are datasets of that owner, with a ledger that this would pass by.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from blindsum.pipelines.run.files import write_whole
from blindsum.platform.errors import ConsentError, JobError, ModelError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.owner import find_owner
from blindsum.platform.job.paths import silo_places
from blindsum.platform.job.schema import Job
from blindsum.platform.training.adapters import merged
from blindsum.platform.training.models import head_names

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.safetensors")


@dataclass(frozen=True)
class Trunk:
    """Published weights: their file, its SHA-256, and patterns of the parameters that it has."""

    path: Path
    sha256: str
    only: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What to write into the model section of a job that begins with them."""
        only = json.dumps([*self.only])  # which is YAML too
        weights = f"{{file: {self.path.name}, sha256: {self.sha256}, only: {only}}}"
        return [f"weights: {weights}", f"freeze: {only}"]


def require_publishable(job_file: JobFile, path: Path) -> list[Path]:
    """Check that a job's pooled weights may be published into that file; return the tables that
    they would be trained on.

    Raises:
        ConsentError: the machine's tables are an owner's datasets.
        JobError: a job cannot name such a file, or the job has private tasks.
    """
    if not _NAME.fullmatch(path.name):
        raise JobError(
            f"{path.name} cannot be the name of a file of weights",
            "Use letters, digits, '-', '_' and '.', and the ending .safetensors.",
        )
    job = job_file.job
    if job.has_private_tasks:
        raise JobError(
            "weights of a job with private tasks cannot be published",
            "Leave silos.NAME.private_tasks out: public tasks stand in data.tasks.",
        )
    if owner := find_owner():
        raise ConsentError(
            f"this machine's tables are datasets of {owner.path}: weights that are trained on them "
            "without privacy would reveal their records",
            "Train on public files, on a machine or as a user without an owner's file.",
        )
    return [silo_places(job.silo(name), str(job_file.folder)).table for name in job.roster]


def write_trunk(job: Job, model: nn.Module, path: Path) -> Trunk:
    """Write the weights of a trained model without its head.

    Args:
        model: as `blindsum.platform.training.models.model_of` builds it. Adapters are added to its
            weights.

    Raises:
        ModelError: the model is nothing but a head.
        OSError: the file cannot be written.
    """
    plain = merged(model) if job.model.lora else model
    head = head_names(plain, job.data.outputs)
    only = tuple(_patterns(plain, head))
    if not only:
        raise ModelError(
            f"a {job.model.kind} model has no layers before its last",
            "Use a model with hidden layers.",
        )
    kept = {
        name: values.contiguous()
        for name, values in plain.state_dict().items()
        if not any(name.startswith(f"{one}.") for one in head)
    }
    content = safetensors.torch.save(kept)
    write_whole(path, content)
    return Trunk(path, hashlib.sha256(content).hexdigest(), only)


def _patterns(module: nn.Module, head: Sequence[str], name: str = "") -> Iterator[str]:
    """Yield the fewest patterns of names that match all of a module's values outside the head."""
    if not name and not any(True for _ in module.children()):
        return
    above = f"{name}." if name else ""
    for own in [key for key in module.state_dict() if "." not in key]:
        yield above + own
    for child, inside in module.named_children():
        path = above + child
        if path in head or not inside.state_dict():
            continue
        if any(one.startswith(f"{path}.") for one in head):
            yield from _patterns(inside, head, path)
        else:
            yield f"{path}.*"

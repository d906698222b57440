"""A silo's private tasks: label columns with a private head, whose names never leave the silo."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from blindsum.platform.errors import DataError
from blindsum.platform.job.labels_section import Task, Tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.job.silo_section import SiloSection
from blindsum.platform.job.yaml_reader import Loader


def load_private_tasks(section: SiloSection, job: Job, path: Path | None) -> Tasks:
    """Return a silo's private tasks, or an empty mapping if it has none.

    Args:
        path: the file, as `blindsum.platform.job.paths.silo_places` finds it.

    Raises: DataError, as `read_private_tasks`.
    """
    if section.private_tasks is None or path is None:
        if not job.data.outputs:
            raise DataError(
                "this silo has no task at all",
                "Give the silo private_tasks, or give the job data.tasks.",
            )
        return {}
    known = {*(job.data.tasks or ()), *job.data.inputs}
    return read_private_tasks(path, known)


def read_private_tasks(path: Path, known: Collection[str]) -> Tasks:
    """Read a silo's private tasks from its YAML file, a mapping of column names to settings.

    Args:
        known: columns that the job already uses: shared tasks and features.

    Raises:
        DataError: the file cannot be read, has no task or a wrong one, or names a known column.
            The message names no task, because errors reach the driver.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
        tasks = TypeAdapter(dict[str, Task]).validate_python(content)
    except (OSError, UnicodeDecodeError):
        raise DataError(
            "this silo's file of private tasks cannot be read", "Check silos.private_tasks."
        ) from None
    except (yaml.YAMLError, ValidationError, ValueError, AttributeError, RecursionError):
        raise DataError(
            "this silo's file of private tasks is not a mapping of columns to tasks",
            "Write NAME: {kind: binary} or {kind: regression, center: ..., scale: ...}.",
        ) from None
    if not tasks or set(tasks) & set(known):
        raise DataError(
            "this silo's file of private tasks is empty, or one of its columns is also in "
            "data.tasks or among the features",
            "Name at least one column, and name each column in one place only.",
        )
    return tasks

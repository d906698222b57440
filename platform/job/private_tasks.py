"""A silo's private tasks: columns that it trains a head of its own on, and names to nobody."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import Task, Tasks
from blindsum.platform.job.schema import Job, SiloSection
from blindsum.platform.job.yaml_reader import Loader


def load_private_tasks(section: SiloSection, job: Job, path: Path | None) -> Tasks:
    """A silo's own tasks; none if it has no file of them.

    Args:
        path: the file, as `blindsum.platform.job.paths.silo_places` finds it.

    Raises: DataError, as `read_private_tasks`.
    """
    if section.private_tasks is None or path is None:
        if not job.data.outputs:
            raise DataError(
                "this silo has no task at all", "Give it private_tasks, or the job data.tasks."
            )
        return {}
    known = {*(job.data.tasks or ()), *job.data.inputs}
    return read_private_tasks(path, known)


def read_private_tasks(path: Path, known: Collection[str]) -> Tasks:
    """A silo's own tasks, from its YAML file: a mapping of column names to settings.

    Raises:
        DataError: the file cannot be read, or a task is wrong or also a known column: a shared task, or a
            feature. Tasks are not named: errors reach the driver.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
        tasks = TypeAdapter(dict[str, Task]).validate_python(content)
    except (OSError, UnicodeDecodeError):
        raise DataError(
            "the file of this silo's private tasks cannot be read", "Check silos.private_tasks."
        ) from None
    except (yaml.YAMLError, ValidationError, ValueError, AttributeError, RecursionError):
        raise DataError(
            "the file of this silo's private tasks is no mapping of columns to tasks",
            "Write NAME: {kind: binary} or {kind: regression, center: ..., scale: ...}.",
        ) from None
    if not tasks or set(tasks) & set(known):
        raise DataError(
            "this silo's private tasks are none, or also in data.tasks or among the features",
            "Name each column in one place.",
        )
    return tasks

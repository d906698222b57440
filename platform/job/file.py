"""The job file: read, overridden and validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blindsum.platform.errors import JobError
from blindsum.platform.job.name_patterns import with_names
from blindsum.platform.job.python_content import plain_content
from blindsum.platform.job.schema import Job
from blindsum.platform.job.section import is_name
from blindsum.platform.job.silo_section import SiloSection
from blindsum.platform.job.yaml_reader import Place, check_content, read_section


@dataclass(frozen=True)
class JobFile:
    """A validated job and the file it came from. `text` is the file with overrides applied, and
    with a list of names in place of a reference to their file: it needs no other file.

    A job that was made in Python has the path of a file that need not exist: paths in the job start
    at its folder.
    """

    job: Job
    path: Path
    text: str

    @property
    def folder(self) -> Path:
        """The folder that the job file lies in."""
        return self.path.parent

    def silo(self, name: str) -> SiloSection:
        """Return the section of the silo that the user named.

        Raises:
            JobError: the job has no such silo.
        """
        if name not in self.job.roster:
            known = ", ".join(self.job.roster)
            raise JobError(f"{self.path.name} has no silo '{name}'", f"Its silos are {known}.")
        return self.job.silo(name)


def require_scored(job: Job, what: str) -> None:
    """Raise JobError if a job trains no model, for what needs one.

    Args:
        what: that, as "an audit".
    """
    if not job.model.is_scored:
        raise JobError(
            f"a job of {job.model.kind} trains no model, and {what} needs one",
            "Give the job whose silos it describes.",
        )


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """Read a YAML job file, apply `key.key=value` overrides, and validate.

    Raises:
        JobError: the file cannot be read or a setting is wrong; lists every fault at once.
    """
    try:
        path = path.resolve(strict=False)
    except (OSError, RuntimeError):
        raise JobError(f"the job file {path} cannot be read", "Check the path.") from None

    start, prepare = "Write one with: blindsum init", partial(_with_names, path.parent)
    found = read_section(path, Job, "job", start, overrides, prepare=prepare)
    _refuse_shared_files(found.section, path, found.lines)
    return JobFile(found.section, path, found.text)


def make_job(content: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> JobFile:
    """Validate a job that was made in Python, as `load_job` does.

    Args:
        content: the job's sections, as the keys of a job file.
        folder: paths in the job start here.

    Raises:
        JobError: a setting is wrong; lists every fault at once, by key.
    """
    path = folder.absolute() / "job.yaml"
    prepare = partial(_with_names, path.parent)
    found = check_content(plain_content(content), Job, overrides, prepare)
    _refuse_shared_files(found.section, path, found.lines)
    return JobFile(found.section, path, found.text)


def _with_names(folder: Path, content: dict[str, Any], place: Callable[[Place], str]) -> bool:
    return with_names(content, folder, place(("data", "features", "names")))


def _refuse_shared_files(job: Job, path: Path, lines: dict[Place, int]) -> None:
    """Refuse two silos with one table: two ledgers would each be charged for half of its spend."""
    for key in ("data", "state"):
        seen: dict[Path, str] = {}
        for i, silo in enumerate(job.silos):
            where = f"{path.name}, line {lines.get(('silos', i, key), 1)}: " if lines else ""
            if (value := getattr(silo, key)) is None:
                continue
            try:
                place = path.parent.joinpath(Path(value).expanduser()).resolve()
            except (OSError, RuntimeError, ValueError):
                raise JobError(f"{where}silos.{silo.name}.{key}: {value!r} is not a path") from None
            if key == "data" and is_name(value) and not place.exists():
                continue  # a dataset in an owner's file: owners may use the same name
            if place in seen:
                raise JobError(
                    f"{where}silos {seen[place]} and {silo.name} have the same {key}, {place}",
                    f"Give every silo a different {key}.",
                )
            seen[place] = silo.name

"""The folder that is sent to a cluster with a job.

It contains only files that the job names: the job file as it was validated and the source files of
its own functions, such as `model.factory`; for a simulation also the tables. Other files beside the
job file (keys, results, `.env`, other people's tables) are never sent.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.own_code import modules_of, own_functions


def write_bundle(job_file: JobFile, folder: Path, *, with_tables: bool) -> Path:
    """Write the files to send into a new folder, and return its path.

    Args:
        with_tables: include the silos' `data` and `private_tasks`, for a simulation.

    Raises:
        JobError: a table lies outside the job's folder or is missing, or a factory's source
            cannot be read.
    """
    folder.mkdir(parents=True)
    (folder / job_file.path.name).write_text(job_file.text, encoding="utf-8")
    named = factory_sources(job_file)
    if with_tables:
        named += _tables(job_file)
    for relative in named:
        source, target = job_file.folder / relative, folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return folder


def factory_sources(job_file: JobFile) -> list[Path]:
    """Return the files beside the job file that its own functions import, as relative paths.

    They are found by parsing the sources, not by running them.

    Raises:
        JobError: one of them is not valid Python.
    """
    found: list[Path] = []
    waiting = modules_of(own_functions(job_file.job).values())
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for path in _files_of(job_file.folder, name):
            relative = path.relative_to(job_file.folder)
            if relative not in found:
                found.append(relative)
                waiting += _imported(path, relative)
    return sorted(found)


def _files_of(folder: Path, module: str) -> list[Path]:
    """Return a module's file and its packages' `__init__.py` files that lie in the folder."""
    parts = module.split(".")
    places = [folder.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    places.append(folder.joinpath(*parts).with_suffix(".py"))
    return [place for place in places if place.is_file()]


def _imported(path: Path, relative: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(relative))
    except (SyntaxError, ValueError, OSError):
        raise JobError(
            f"{relative} of the job's own code is not valid Python",
            "Correct it, then submit again.",
        ) from None
    package = list(relative.parent.parts)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            names += [".".join(base)] if base else []
            names += [".".join([*base, one.name]) for one in node.names]
    return names


def _tables(job_file: JobFile) -> list[Path]:
    named: list[Path] = []
    faults: list[str] = []
    for silo in job_file.job.silos:
        for key in ("data", "private_tasks"):
            if (value := getattr(silo, key)) is None:
                continue
            path = Path(value)
            inside = not path.is_absolute() and ".." not in path.parts and not value.startswith("~")
            if not inside or not (job_file.folder / path).exists():
                faults.append(f"silos.{silo.name}.{key}")
            else:
                named.append(path)
    if faults:
        raise JobError(
            f"{', '.join(faults)}: no such file in the job file's folder",
            "--with-folder sends only tables in that folder: move them there, and name them "
            "relative to the job file.",
        )
    return named

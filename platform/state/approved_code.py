"""The code of a job's own functions, such as `model.factory`, as a silo's owner approved it.

Approving a job builds its model on the owner's machine and imports every function that the job
names. Every file that this imports from the job's folder is copied into the silo's state folder and
recorded by its SHA-256. The silo then imports the modules from that copy, even if the driver sends
another module with the same name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from blindsum.platform.errors import ConsentError, LedgerError

INSTALLED = "installed:"


def imported_from(
    folder: Path, build: Callable[[], Any], modules: Collection[str]
) -> dict[str, str]:
    """Call `build`, and return the SHA-256 of every file that it imported from the job's folder.

    Args:
        modules: those of the job's own functions. If one lies outside the job's folder, its whole
            package is recorded as installed.
    """
    before = set(sys.modules)
    build()
    found: dict[str, str] = {}
    root = folder.resolve()
    for name, one in list(sys.modules.items()):
        path = _source(one)
        mine = path is not None and path.is_relative_to(root) and "site-packages" not in path.parts
        if path and mine and (name not in before or name in modules) and name != "__main__":
            found[str(path.relative_to(root))] = _digest(path)
    for module in modules:
        path = _source(sys.modules.get(module))
        if path and not (path.is_relative_to(root) and str(path.relative_to(root)) in found):
            found[INSTALLED + module] = _package_digest(path, module)
    return found


def keep_code(state: Path, approval: str, folder: Path, code: Mapping[str, str]) -> None:
    """Copy the files that an approval names into the silo's state folder, mode 0600.

    Raises:
        ConsentError: a file changed in the meantime.
        LedgerError: the folder cannot be written.
    """
    for name, digest in code.items():
        if name.startswith(INSTALLED):
            continue
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ConsentError(
                f"{folder / name} changed while it was being approved", "Approve the job again."
            )
        path = _kept(state, approval) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
                file.write(content)
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be written ({error.strerror})",
                "Check that the disk has room and the folder is writable.",
            ) from None


def import_approved(state: Path, approval: str, code: Mapping[str, str]) -> None:
    """From now on, import an approval's modules from the silo's own copy.

    Raises:
        ConsentError: a file is missing or is not the one that was approved.
    """
    folder = _kept(state, approval)
    names = set()
    for name, digest in code.items():
        module = name.removeprefix(INSTALLED)
        if name.startswith(INSTALLED):
            spec = importlib.util.find_spec(module)
            path = Path(spec.origin) if spec and spec.origin else None
        else:
            path = folder / name
            names.add(Path(name).parts[0].removesuffix(".py"))
        intact = (
            path is not None
            and path.is_file()
            and digest
            == (
                _package_digest(path.resolve(), module)
                if name.startswith(INSTALLED)
                else _digest(path)
            )
        )
        if not intact:
            raise ConsentError(
                f"the code of the job's own functions ({module}) is not the code that this silo's "
                "owner approved",
                "Read it, and approve the job again: blindsum approve JOB --silo NAME.",
            )
    for name in [n for n in sys.modules if n.partition(".")[0] in names]:
        del sys.modules[name]  # a module of the same name from elsewhere
    if names:
        sys.meta_path.insert(0, _Approved(folder, frozenset(names)))


class _Approved(MetaPathFinder):
    """A finder that loads approved modules from the silo's copy, before any other place."""

    def __init__(self, folder: Path, names: frozenset[str]) -> None:
        self._folder, self._names = folder, names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._names:
            return None
        return PathFinder.find_spec(fullname, path or [str(self._folder)], target)


def _kept(state: Path, approval: str) -> Path:
    return state / "approved" / approval


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and str(file).endswith(".py") else None


def _package_digest(path: Path, module: str) -> str:
    """Return the SHA-256 over every source file of the package that an installed module belongs to:
    the factory may call code in any of them."""
    if "." not in module and path.name != "__init__.py":
        return _digest(path)
    depth = module.count(".") + (path.name == "__init__.py")
    root = path.parents[depth - 1]
    outer = hashlib.sha256()
    for one in sorted(root.rglob("*.py")):
        outer.update(f"{one.relative_to(root)} {_digest(one)}\n".encode())
    return outer.hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

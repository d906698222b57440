"""The paths of a silo's table, state folder and results.

On a machine with an owner's file (`blindsum.platform.job.owner`), the owner decides every path of
the silo and the driver none. Without one, tables are found relative to the job file, and state in
BLINDSUM_HOME or in the home folder of the user who runs the silo.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blindsum.platform.errors import ConsentError, LedgerError
from blindsum.platform.job.owner import Owner, find_owner, owner_home
from blindsum.platform.job.silo_section import SiloSection

HOME_VARIABLE = "BLINDSUM_HOME"
RESULTS_VARIABLE = "BLINDSUM_RESULTS"
SUBMITTED_VARIABLE = "BLINDSUM_SUBMITTED"

WEIGHTS = "weights"
"""The folder of public weights in a silo's state and in Blindsum's home."""

MODEL = "model.blindsum"
NEWEST = "model-newest.blindsum"
"""The released model in a run's folder, and a silo's own model in its folder of that run."""
XGBOOST = "model.xgboost.json"
FEATURES, FEATURES_PAGE = "features.json", "features.html"
"""A released forest in a run's folder: as XGBoost reads it, and what it learned from which
feature."""
COEFFICIENTS = "coefficients.json"
COEFFICIENT_TABLE = "coefficients.csv"
"""The coefficients of a regression in a run's folder."""
STATISTICS, STATISTICS_PAGE = "statistics.json", "statistics.html"
"""A consortium's statistics in a run's folder."""


def resolve(path: str, folder: str) -> Path:
    """Return an absolute path; a relative one starts at `folder`, the job file's."""
    return Path(folder).joinpath(Path(path).expanduser()).resolve()


def require_usable(folder: Path) -> None:
    """Check that a state folder can be used, without creating it.

    Raises:
        LedgerError: it is not a folder, or it is not writable.
    """
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise LedgerError(
            f"the state folder {folder} cannot be used: {existing} is "
            f"{'not writable' if existing.is_dir() else 'not a folder'}",
            "Set silos.state, or BLINDSUM_HOME on the silo's node, to a writable folder.",
        )


@dataclass(frozen=True)
class SiloPlaces:
    """The paths of one silo of a job. Private to the silo.

    `state` is the folder of ledger, identity and approvals. `dataset` is the table's name in the
    owner's file, or None without an owner's file.
    """

    owner: Owner | None
    state: Path
    table: Path
    private_tasks: Path | None
    dataset: str | None

    def of_run(self, run: str) -> Path:
        """Return the folder for the files that one run leaves at this silo. No other run uses it,
        and the ledger lies outside it."""
        return self.state / "runs" / run


def silo_places(silo: SiloSection, folder: str) -> SiloPlaces:
    """Return the paths of a silo on this machine. Raises as `places_under`."""
    return places_under(find_owner(), silo, folder)


def places_under(owner: Owner | None, silo: SiloSection, folder: str) -> SiloPlaces:
    """Return the paths of a silo, given an owner's file that has already been read, or None.

    Args:
        folder: the job file's folder. Not used if there is an owner's file.

    Raises:
        ConsentError: the owner's file does not allow this name, table or state folder, or cannot
            be trusted.
    """
    state = _state_under(owner, silo)
    if owner is None:
        tasks = silo.private_tasks
        return SiloPlaces(
            None, state, resolve(silo.data, folder), resolve(tasks, folder) if tasks else None, None
        )
    dataset = owner.dataset(silo.data)
    if (silo.private_tasks is None) != (dataset.private_tasks is None):
        raise ConsentError(
            f"dataset {silo.data!r} has "
            f"{'no ' if dataset.private_tasks is None else ''}private_tasks in {owner.path}, but "
            f"the job has {'' if dataset.private_tasks is None else 'no '}private_tasks for it",
            "Agree on whether to set silos.NAME.private_tasks; the owner's file decides its path.",
        )
    tasks = dataset.private_tasks
    return SiloPlaces(owner, state, Path(dataset.path), Path(tasks) if tasks else None, silo.data)


def state_folder(silo: SiloSection) -> Path:
    """Return the silo's state folder: ledger, identity, approvals, and files that runs left there.

    The owner's file says where it is. Without an owner's file it is in the home folder of the user
    who runs the silo, not beside the job: a ledger must outlive a checkout or a job's temporary
    working directory.

    Raises:
        ConsentError: the owner's file does not allow that name, or the job names another folder.
    """
    return _state_under(find_owner(), silo)


def _state_under(owner: Owner | None, silo: SiloSection) -> Path:
    if owner is not None:
        owner.require_name(silo.name)
        if silo.state and Path(silo.state).expanduser().absolute() != owner.state:
            raise ConsentError(
                f"the job sets silos.{silo.name}.state to another folder than {owner.path} does",
                "Leave silos.NAME.state out of the job: the owner's file decides it.",
            )
        return owner.state
    if silo.state:
        return Path(silo.state).expanduser().absolute()
    return home_folder() / "silos" / silo.name


def home_folder() -> Path:
    """Return Blindsum's folder on this machine: BLINDSUM_HOME, or else ~/.blindsum."""
    if said := os.environ.get(HOME_VARIABLE):
        return Path(said).expanduser().absolute()
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the password database
        home = owner_home()
    return home.absolute() / ".blindsum"


def results_folder(folder: Path) -> Path:
    """Return the folder that a run's results are relative to.

    This is BLINDSUM_RESULTS if it is set, and else the job file's folder. For a submitted job it is
    Blindsum's home folder instead, because the job's own folder does not outlive it.
    """
    if said := os.environ.get(RESULTS_VARIABLE):
        return Path(said).expanduser().absolute()
    return home_folder() if SUBMITTED_VARIABLE in os.environ else folder


_HELD: list[Path] = []


def files_from(folder: Path) -> None:
    """Look for public files that jobs name, such as weights, in that folder too."""
    if folder not in _HELD:
        _HELD.append(folder)


def held_folders() -> list[Path]:
    """Return the folders that `files_from` was given, in their order."""
    return list(_HELD)


def public_file(name: str, sha256: str) -> Path | None:
    """Return a file that a job names, if it lies beside the job, in the silo's state or in
    Blindsum's home folder; None if there is none with that digest."""
    for folder in (*_HELD, home_folder() / WEIGHTS):
        path = folder / name
        with suppress(OSError), path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return path
    return None


def public_folder(name: str, sha256: str) -> Path | None:
    """Return a folder of a model that a job names, found as `public_file`; None if there is none
    with that digest."""
    for place in (*_HELD, home_folder() / WEIGHTS):
        folder = place / name
        with suppress(OSError):
            if folder.is_dir() and folder_digest(folder) == sha256:
                return folder
    return None


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of what `sha256sum config.json *.safetensors` prints in that folder.

    Raises:
        OSError: a file cannot be read.
    """
    printed = hashlib.sha256()
    for name in ("config.json", *sorted(path.name for path in folder.glob("*.safetensors"))):
        with (folder / name).open("rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        printed.update(f"{one}  {name}\n".encode())
    return printed.hexdigest()


def import_from(folder: str) -> None:
    """Let a job name a module for `model.factory`, and public files, that lie beside it.

    The folder comes last on the path: a file there can add a module, but never replace an
    installed one.
    """
    files_from(Path(folder))
    if folder not in sys.path:
        sys.path.append(folder)

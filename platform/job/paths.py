"""Where things lie: what is the owner's where the owner says, and else beside the job file.

On a machine with an owner's file (`blindsum.platform.job.owner`) nothing that a driver says leads to a
path. Without one, tables are found relative to the job file, and state in BLINDSUM_HOME or the home
of the user who runs the silo.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from blindsum.platform.errors import ConsentError, LedgerError
from blindsum.platform.job.owner import Owner, find_owner
from blindsum.platform.job.schema import SiloSection

HOME_VARIABLE = "BLINDSUM_HOME"
RESULTS_VARIABLE = "BLINDSUM_RESULTS"
SUBMITTED_VARIABLE = "BLINDSUM_SUBMITTED"


def resolve(path: str, folder: str) -> Path:
    """An absolute path; relative ones start at the job file's folder."""
    return Path(folder).joinpath(Path(path).expanduser()).resolve()


def require_usable(folder: Path) -> None:
    """Check that a state folder can be used, without making it.

    Raises:
        LedgerError: it is no folder, or nothing can be written there.
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
    """Where one silo of a job finds what is its own. Private to the silo.

    `state` is the folder of ledger, identity and approvals; `dataset` the name under which the owner
    knows the table, None without an owner's file.
    """

    owner: Owner | None
    state: Path
    table: Path
    private_tasks: Path | None
    dataset: str | None

    def of_run(self, run: str) -> Path:
        """The folder of what one run leaves at this silo: no other run's, and not the ledger's."""
        return self.state / "runs" / run


def silo_places(silo: SiloSection, folder: str) -> SiloPlaces:
    """Where a silo of a job finds what is its own on this machine. Raises as `places_under`."""
    return places_under(find_owner(), silo, folder)


def places_under(owner: Owner | None, silo: SiloSection, folder: str) -> SiloPlaces:
    """The same, under an owner's file that was read already.

    Args:
        folder: the job file's. Not looked at where there is an owner's file.

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
            f"dataset {silo.data!r} has {'no ' if dataset.private_tasks is None else ''}private_tasks "
            f"in {owner.path}, and the job says otherwise",
            "Agree on silos.NAME.private_tasks; the file itself is the owner's to name.",
        )
    tasks = dataset.private_tasks
    return SiloPlaces(owner, state, Path(dataset.path), Path(tasks) if tasks else None, silo.data)


def state_folder(silo: SiloSection) -> Path:
    """The silo's own folder: ledger, identity, approvals, and what runs left there.

    Where the owner's file says. Without one in the home of whoever runs the silo, not beside the
    job: a ledger must outlive a checkout or a job's temporary working directory.

    Raises:
        ConsentError: the owner's file does not allow that name, or the job names another folder.
    """
    return _state_under(find_owner(), silo)


def _state_under(owner: Owner | None, silo: SiloSection) -> Path:
    if owner is not None:
        owner.require_name(silo.name)
        if silo.state and Path(silo.state).expanduser().absolute() != owner.state:
            raise ConsentError(
                f"the job wants silo '{silo.name}' to keep its state elsewhere than {owner.path} says",
                "Leave silos.NAME.state out: it is the owner's to say.",
            )
        return owner.state
    if silo.state:
        return Path(silo.state).expanduser().absolute()
    return home_folder() / "silos" / silo.name


def home_folder() -> Path:
    """Where what is nobody's in particular lies on this machine: BLINDSUM_HOME, or else ~/.blindsum."""
    home = Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".blindsum")
    return home.expanduser().absolute()


def results_folder(folder: Path) -> Path:
    """Where a run's results start from: where BLINDSUM_RESULTS says, or else beside the job file; of a
    submitted job in the home of who runs it, since its own folder does not outlive it."""
    if said := os.environ.get(RESULTS_VARIABLE):
        return Path(said).expanduser().absolute()
    return home_folder() if SUBMITTED_VARIABLE in os.environ else folder


def import_from(folder: str) -> None:
    """Let `model.factory` name a module that lies beside the job file.

    Last on the path: a file there can add modules, never replace installed ones.
    """
    if folder not in sys.path:
        sys.path.append(folder)

"""Where things lie: data relative to the job file, state in the silo owner's home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blindsum.platform.errors import LedgerError
from blindsum.platform.job import SiloSection

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


def state_folder(silo: SiloSection) -> Path:
    """The silo's own folder: ledger, identity, rejected rows.

    In the home of whoever runs the silo, not beside the job: a ledger must outlive a checkout
    or a job's temporary working directory. BLINDSUM_HOME moves it.
    """
    if silo.state:
        return Path(silo.state).expanduser().absolute()
    return _home() / "silos" / silo.name


def _home() -> Path:
    home = Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".blindsum")
    return home.expanduser().absolute()


def results_folder(folder: Path) -> Path:
    """Where a run's results start from: where BLINDSUM_RESULTS says, or else beside the job file; of a
    submitted job in the home of who runs it, since its own folder does not outlive it."""
    if said := os.environ.get(RESULTS_VARIABLE):
        return Path(said).expanduser().absolute()
    return _home() if SUBMITTED_VARIABLE in os.environ else folder


def import_from(folder: str) -> None:
    """Let `model.factory` name a module that lies beside the job file.

    Last on the path: a file there can add modules, never replace installed ones.
    """
    if folder not in sys.path:
        sys.path.append(folder)

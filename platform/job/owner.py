"""The owner's file: it says what a silo's machine may take part in, out of the driver's reach.

    names: [alder]                      the names under which this machine may act
    state: /srv/blindsum/alder          folder of ledger, identity and approvals
    datasets:                           the job gives the name; the owner decides the path
      solubility: {path: /data/solubility.parquet}
    approved_jobs_only: true

It is looked for in two places that the driver cannot influence: `/etc/blindsum/silo.yaml`, and
`.blindsum/silo.yaml` in the home folder that the password database lists for the user who runs the
silo. HOME, BLINDSUM_HOME and the job do not change these places. If the file exists, names, tables,
state folder and approvals come from it alone. If it does not, the run is a simulation: nobody is
asked for consent, no lifetime limit applies, and every output says so.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from blindsum.platform.errors import ConsentError
from blindsum.platform.job.section import Name, Section
from blindsum.platform.job.yaml_reader import read_section

FILE = "silo.yaml"
NOWHERE = Path("/nonexistent")
"""Stands for the home folder of a user without one."""


class DatasetSection(Section):
    """One table. Jobs refer to it by its name in the owner's file."""

    path: str = Field(min_length=1, max_length=4096, description="File or folder of the table.")
    private_tasks: str | None = Field(
        None, min_length=1, max_length=4096, description="YAML file of this silo's own tasks."
    )

    @field_validator("path", "private_tasks")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _absolute(path)


class CoordinatorSection(Section):
    """The coordinator that the silo's agent connects to, in separate clusters."""

    url: str = Field(pattern="^https://[^/ ]+$", description="https://HOST:PORT")
    identity: str = Field(
        pattern="^[0-9a-f]{64}$", description="Fingerprint of the coordinator's identity."
    )
    tls: Literal["mutual", "inspected"] = Field(
        "mutual",
        description="inspected: a proxy of this company ends TLS on the way. Messages are sealed "
        "and authentic in both cases.",
    )
    authority: str | None = Field(
        None,
        description="PEM file of the authority whose certificate the connection shows; default: "
        "the coordinator's. With tls inspected: the proxy's.",
    )
    proxy: str | None = Field(
        None,
        pattern="^https?://",
        description="http://USER:PASSWORD@HOST:PORT; default: HTTPS_PROXY and NO_PROXY.",
    )


class PolicySection(Section):
    """What a job must meet before it is even shown to the owner as approvable."""

    most_epsilon: float | None = Field(
        None, gt=0, description="Largest epsilon of one job; default: no limit of its own."
    )
    least_silos: int = Field(2, ge=2, le=64, description="Smallest roster and quorum.")
    factory: Literal["never", "approved"] = Field(
        "never",
        description="Whether jobs may bring code of their own (model.factory, training.loss, "
        "data.features.function), "
        "approved by digest.",
    )


class OwnerFile(Section):
    """The settings by which a machine's owner controls the silo on it."""

    names: list[Name] = Field(min_length=1, max_length=64)
    state: str = Field(description="Folder of ledger, identity and approvals.")
    datasets: dict[Name, DatasetSection] = Field(min_length=1)
    approved_jobs_only: bool = Field(True, description="Refuse every job that is not approved.")
    coordinator: CoordinatorSection | None = None
    policy: PolicySection = PolicySection()

    @field_validator("state")
    @classmethod
    def _absolute(cls, state: str) -> str:
        return _absolute(state)

    @model_validator(mode="after")
    def _tables_are_distinct(self) -> OwnerFile:
        # One table under two names would have two budgets.
        seen: dict[str, str] = {}
        for name, dataset in self.datasets.items():
            real = os.path.realpath(dataset.path)
            if real in seen:
                raise ValueError(f"datasets {seen[real]} and {name} are the same file")
            seen[real] = name
        for real, name in seen.items():
            for folder in map(str, Path(real).parents):
                if folder in seen:
                    raise ValueError(f"dataset {name} lies in the folder of dataset {seen[folder]}")
        return self


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("write an absolute path, starting with /")
    return os.path.normpath(path)


@dataclass(frozen=True)
class Owner:
    """An owner's file and its path."""

    path: Path
    file: OwnerFile

    @property
    def state(self) -> Path:
        """The silo's state folder."""
        return Path(self.file.state)

    def require_name(self, name: str) -> None:
        """Raise ConsentError unless this machine may act under that name."""
        if name not in self.file.names:
            raise ConsentError(
                f"{self.path} does not allow this machine to act as silo '{name}'",
                f"Allowed names: {', '.join(self.file.names)}.",
            )

    def dataset(self, name: str) -> DatasetSection:
        """Return the dataset of that name. Raises ConsentError if there is none."""
        if name not in self.file.datasets:
            raise ConsentError(
                f"the job asks for dataset {name!r}, which is not in {self.path}",
                f"Its datasets are {', '.join(self.file.datasets)}. At a silo with an owner's "
                "file, silos.NAME.data must be one of these names, never a path.",
            )
        return self.file.datasets[name]


def owner_home() -> Path:
    """Return the home folder of the user who runs this process, from the password database.

    It does not come from HOME, which a driver can set in a job's environment.
    """
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user may have no entry
        return NOWHERE


def places() -> tuple[Path, ...]:
    """Return the paths where an owner's file is looked for, in this order."""
    return Path("/etc/blindsum") / FILE, owner_home() / ".blindsum" / FILE


def find_owner() -> Owner | None:
    """Return this machine's owner's file, or None if it does not exist.

    Raises:
        ConsentError: the file exists but cannot be read, is not valid, or could have been written
            by somebody other than its owner.
    """
    for path in places():
        if os.path.lexists(path):
            return read_owner(path)
    return None


def read_owner(path: Path) -> Owner:
    """Return the owner's file at a path that the owner gave. Raises as `find_owner`."""
    _require_trusted(path)
    read = read_section(path, OwnerFile, "owner's", "blindsum silo init", error=ConsentError)
    return Owner(path, read.section)


def _require_trusted(path: Path) -> None:
    """Refuse a file if another user could have written the file or its folder."""
    for place, kind in ((path, stat.S_ISREG), (path.parent, stat.S_ISDIR)):
        try:
            found = place.lstat()
        except OSError as error:
            raise ConsentError(
                f"the owner's file {path} cannot be read ({os.strerror(error.errno or 0)})",
                "Check its permissions.",
            ) from None
        if not kind(found.st_mode) or found.st_uid not in (0, os.getuid()):
            raise ConsentError(
                f"{place} is not a plain file or folder that this user or root owns",
                f"Run: chown {os.getuid()} {place}",
            )
        if found.st_mode & 0o022:
            raise ConsentError(f"other users can write to {place}", f"Run: chmod go-w {place}")

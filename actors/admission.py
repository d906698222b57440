"""A silo's decision to take part in a job, made before any table is read.

On a machine with an owner's file, the silo's name, table, state folder and approvals come from the
owner alone, and a driver that is refused learns only that it was refused. Without an owner's file,
nobody's consent is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from blindsum import __version__
from blindsum.actors.books import Books
from blindsum.actors.messages import SiloSpec
from blindsum.platform.errors import (
    BlindsumError,
    BudgetExceeded,
    CannotTakePart,
    ConsentError,
    DataError,
    LedgerError,
    ModelError,
    Unexpected,
)
from blindsum.platform.job.owner import Owner, find_owner, read_owner
from blindsum.platform.job.paths import (
    WEIGHTS,
    SiloPlaces,
    files_from,
    import_from,
    places_under,
    require_usable,
)
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import (
    Approval,
    require_dataset,
    require_version,
    require_weights,
)
from blindsum.platform.state.approved_code import import_approved

_OF_THE_SILO = (BudgetExceeded, ConsentError, DataError, LedgerError, ModelError, Unexpected)
"""Errors whose text may reveal something about the silo: its paths, columns or limits."""

WHERE = "The silo's own audit log has the reason: run blindsum audit-log show on its machine."


class Admission:
    """One silo's admission to one run.

    Args:
        owner_file: the path of the owner's file, if the owner starts the silo (an agent does, in
            separate clusters): every job then needs an approval. None: it is looked for.

    `owner` is the machine's owner's file, None in a simulation. `admit` sets `places`, `books` and,
    if the job needs one, `approval`.
    """

    def __init__(self, spec: SiloSpec, owner_file: str | None = None) -> None:
        self._spec, self._owner_file = spec, owner_file
        self.owner: Owner | None = None
        self.places: SiloPlaces | None = None
        self.books: Books | None = None
        self.approval: Approval | None = None

    @property
    def by_agent(self) -> bool:
        """Whether the silo's owner started it, in a Ray of the silo's own."""
        return self._owner_file is not None

    def admit(self) -> tuple[SiloPlaces, Books]:
        """Check the owner's file and the approvals, and note the inspection in the audit log. No
        table is read yet.

        Raises:
            ConsentError: the owner has not agreed, or the job simulates silos.
            KeyRefused, LedgerError: the state folder cannot be used or trusted.
        """
        spec = self._spec
        owner = read_owner(Path(self._owner_file)) if self._owner_file else find_owner()
        if owner and spec.job.simulation:
            # Before anything of the owner's is opened: other silos may share this process. It
            # depends on the job alone, so that the driver may learn why.
            raise ConsentError(
                f"{owner.path} makes this a real owner's machine, and the job's "
                "simulation.silos_per_process is for simulated silos alone: one process would have "
                "the records and keys of several",
                "Leave the job's section simulation out, or simulate on a machine without an "
                "owner's file.",
            )
        self.owner = owner
        if self.owner:
            # From here on refusals are noted, including a refusal of the name below.
            self.books = self._open(self.owner.state)
        places = places_under(self.owner, spec.job.silo(spec.name), spec.folder)
        books = self.books = self.books or self._open(places.state)
        books.begin_inspection()
        if self.owner:
            _require_own_installation()
            self._ask(books, self.owner)
        files_from(places.state / WEIGHTS)
        if self.approval and self.approval.code:
            import_approved(places.state, self.approval.id, self.approval.code)
        elif not self.approval:
            import_from(spec.folder)
        self.places = places
        return places, books

    def _open(self, state: Path) -> Books:
        require_usable(state)
        spec = self._spec
        return Books(spec.job, spec.run, spec.name, state, spec.resumed)

    def _ask(self, books: Books, owner: Owner) -> None:
        job = self._spec.job
        if self._owner_file or asks_for_approval(owner, job):
            self.approval = books.approved()
            require_version(self.approval, __version__)
        if job.privacy.noise == "shared":
            _require_pins(job, self._spec.name)

    def require_approved(self, weights: str, fingerprints: Collection[str]) -> None:
        """Raise ConsentError unless the owner approved the job with these initial weights and this
        table, if approval is needed.

        Args:
            fingerprints: of the table's records, as this and earlier versions compute them.
        """
        if self.approval:
            require_weights(self.approval, weights)
            require_dataset(self.approval, fingerprints)

    def outward(self, error: BlindsumError, begun: bool) -> BlindsumError:
        """Return the error that the driver receives in place of this one.

        Args:
            begun: the silo has joined the run. From then on the driver learns the kind of an
                error, which decides how the federation continues, but not its text.
        """
        if self.owner is None:
            return error
        if not begun:
            return CannotTakePart("it cannot take part", WHERE, silo=error.silo)
        if isinstance(error, _OF_THE_SILO):
            return type(error)("it cannot continue", WHERE, silo=error.silo, round=error.round)
        return error


_SHIPPED = "runtime_resources"
"""The folder into which Ray unpacks the files of a job (`working_dir`, `py_modules`, `pip`)."""


def _require_own_installation() -> None:
    """Raise unless this silo runs what its owner installed. Ray puts a job's own modules ahead of
    the installation on the path.

    This catches a driver's mistake only: code that is already running here could lie about itself.

    Raises:
        ConsentError: a module that came with the job was imported.
    """
    shipped = sorted(
        name
        for name, module in list(sys.modules.items())
        if _SHIPPED in Path(getattr(module, "__file__", None) or "").parts
    )
    if shipped:
        raise ConsentError(
            f"this silo imported {len(shipped)} modules that came with the job, the first of them "
            f"{shipped[0]}",
            "A silo runs only its own installation: submit with --ship nothing.",
        )
    sys.path[:] = [entry for entry in sys.path if _SHIPPED not in Path(entry).parts]


def asks_for_approval(owner: Owner, job: Job) -> bool:
    """Return whether a machine with that owner's file takes part only in approved jobs."""
    return owner.file.approved_jobs_only or job.privacy.noise == "shared"


def _require_pins(job: Job, name: str) -> None:
    """Raise ConsentError under shared noise unless all other silos' identities are pinned.

    A silo's own share of the noise protects its records too little: anyone who impersonates all
    other silos would see the records under that share alone.
    """
    open_ = [s.name for s in job.silos if s.name != name and s.identity is None]
    if open_:
        raise ConsentError(
            f"privacy.noise is shared, but the identities of {', '.join(open_)} are not pinned",
            "Agree on silos.NAME.identity for every silo (blindsum identity), or use noise: local.",
        )

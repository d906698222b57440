"""One silo's records and private tasks, read from where the job or its owner keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from blindsum.platform.data.at_silo import remove_at_silo, write_at_silo
from blindsum.platform.data.computing import Computing, computing_in
from blindsum.platform.data.identifiers import By, Identifiers, identified_by, load_identifiers
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.paths import SiloPlaces
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.job.statistics_section import Statistics

REJECTED_ROWS = "rejected_rows.csv"
"""In the folder of one run at the silo: the rows that were refused or dropped, and why."""

CONCERNS = "odd_data.txt"
"""In the folder of one run at the silo: what is odd about its data, for its owner."""


Load = Callable[[Path, DataSection, Path, Tasks, Computing], SiloData]
"""Reads a table, as `load_data` does."""


@dataclass(frozen=True)
class Member:
    """One silo's folds, and the tasks that it names to nobody. Private to the silo."""

    name: str
    data: SiloData
    own: Tasks

    def __repr__(self) -> str:
        return f"Member({self.name!r}, private)"


def open_member(
    job: Job,
    name: str,
    places: SiloPlaces,
    run: str,
    computing: Computing | None = None,
    load: Load = load_data,
) -> Member:
    """Read one silo's table and private tasks.

    Args:
        run: names the folder, under the silo's state, that lists rejected rows.
        computing: the silo's means; default: all cores, and its state folder keeps the results.
        load: reads the table.

    Raises:
        DataError: as `blindsum.platform.data.table.load_data` and `load_private_tasks`.
    """
    own = load_private_tasks(job.silo(name), job, places.private_tasks)
    rejects = places.of_run(run) / REJECTED_ROWS
    means = computing or computing_in(places.state)
    told = places.of_run(run) / CONCERNS
    remove_at_silo(told)
    data = load(places.table, job.data, rejects, own, means)
    if data.concerns and places.owner:
        write_at_silo(told, "".join(f"{text}\n" for text in data.concerns))
    return Member(name, data, own)


def identified(member: Member, job: Job, places: SiloPlaces, run: str, means: Computing) -> Member:
    """Return the silo with its records' identifiers, if the job asks for overlaps.

    Raises:
        DataError: as `open_member`.
    """
    if not isinstance(job.model, Statistics) or job.model.overlap is None:
        return member
    by = job.model.overlap.by or identified_by(job.data)
    found = identifiers_of(member.own, job, places, run, by, means)
    return replace(member, data=replace(member.data, identifiers=found.digests))


def identifiers_of(
    own: Tasks, job: Job, places: SiloPlaces, run: str, by: By, means: Computing | None = None
) -> Identifiers:
    """Read the identifiers of a silo's table; arguments and errors as of `open_member`."""
    rejects, means = places.of_run(run) / REJECTED_ROWS, means or computing_in(places.state)
    return load_identifiers(places.table, job.data, rejects, by, own, means)

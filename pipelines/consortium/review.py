"""What a proposed job would do at this silo, read before anything of it runs.

The review comes from the job, the owner's file, the silo's table and its ledger. It never imports a
proposal's code, and it spends nothing. It is for the silo's owner alone: it names the table's
fingerprint and what the dataset has spent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from blindsum.actors.separate.inbox import Inbox, Received, against_policy
from blindsum.actors.summing import parameters_of
from blindsum.actors.vault import open_identity
from blindsum.he.cipher import body_bytes
from blindsum.he.identity import fingerprint
from blindsum.pipelines.consortium.budget import Budget, budget, known_dataset, open_ledger
from blindsum.pipelines.consortium.changes import since_approved
from blindsum.pipelines.consortium.deciding import code_files, code_folder
from blindsum.pipelines.consortium.review_text import JobReview, Review, Traffic
from blindsum.pipelines.run.traffic import frozen_count, parameter_count
from blindsum.platform.data.checked import used_columns
from blindsum.platform.data.member import REJECTED_ROWS
from blindsum.platform.data.table import load_data, table_fingerprints
from blindsum.platform.errors import BlindsumError, LedgerError
from blindsum.platform.evaluation.figures import count_values
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.own_code import FEATURES, own_functions
from blindsum.platform.job.owner import Owner
from blindsum.platform.job.paths import WEIGHTS, files_from, places_under
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, metrics_plan, plan
from blindsum.platform.state.approval import job_digest
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.sent import sent_counts

T = TypeVar("T")

NOT_COMPUTED = (
    "not looked for: the features are made by the proposal's own code, which a review does not run"
)


def review(owner: Owner, silo: str, inbox: Inbox, digest: str, features: bool = False) -> Review:
    """Return what a proposed job would do at this silo.

    Args:
        features: also compute the table's features, and say what is odd about the data. It may
            take a while for many molecules.

    Raises:
        JobError, ConsentError: there is no such proposal, or it cannot be read.
        KeyRefused, LedgerError: the silo's ledger or identity cannot be used or trusted.
    """
    files_from(owner.state / WEIGHTS)
    received = inbox.one(digest)
    job, folder = inbox.job(received.digest), code_folder(inbox, received.digest)
    names = code_files(folder)
    code = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    faults, obstacles = against_policy(owner, job, silo, names), list[str]()
    fingerprints, concerns = tuple[str, ...](), tuple[str, ...]()
    own_plan = held_out = own_budget = None
    files_from(owner.state / WEIGHTS)
    values = _or_noted(obstacles, lambda: parameter_count(job))
    frozen = (_or_noted(obstacles, lambda: frozen_count(job)) or 0) if values else 0
    traffic = _or_noted(obstacles, lambda: _traffic(job, values))
    with open_ledger(owner, silo) as ledger:
        if silo in job.roster and job.silo(silo).data in owner.file.datasets:
            obstacles += _of_identity(owner, job, silo)
            own_plan = _or_noted(obstacles, lambda: plan(job, silo)) if job.private else None
            held_out = _or_noted(obstacles, lambda: metrics_plan(job)) if job.private else None
            found = _or_noted(obstacles, lambda: _fingerprints(owner, inbox, received, job, silo))
            fingerprints = found or ()
            if found and features and FEATURES in own_functions(job):
                concerns = (NOT_COMPUTED,)
            elif found and features:
                look = partial(_concerns, owner, inbox, received, job, silo)
                concerns = _or_noted(obstacles, look) or ()
            own_budget = budget(ledger, job.silo(silo).data, fingerprints)
            obstacles += _of_budget(ledger, own_budget, fingerprints, own_plan, held_out)
        earlier = since_approved(ledger, inbox, job, code)
    return Review(
        silo=silo,
        received=received,
        job=job,
        job_digest=job_digest(job),
        policy=tuple(faults),
        obstacles=tuple(obstacles),
        concerns=concerns,
        columns=tuple(used_columns(job.data)),
        parameters=values,
        frozen=frozen,
        plan=own_plan,
        held_out=held_out,
        budget=own_budget,
        traffic=traffic,
        code=code,
        folder=folder,
        fingerprint=fingerprints[0] if fingerprints else None,
        earlier=earlier,
    )


def review_here(owner: Owner, silo: str, job: Job, folder: Path) -> JobReview:
    """Return what a job of one cluster would do at this silo. The table is not read.

    Args:
        folder: the job file's folder.

    Raises:
        KeyRefused, LedgerError: the silo's ledger or identity cannot be used or trusted.
    """
    for place in (owner.state / WEIGHTS, folder):
        files_from(place)
    obstacles = list(_of_identity(owner, job, silo))
    own_plan = _or_noted(obstacles, lambda: plan(job, silo)) if job.private else None
    held_out = _or_noted(obstacles, lambda: metrics_plan(job)) if job.private else None
    with open_ledger(owner, silo) as ledger:
        own_budget = budget(ledger, job.silo(silo).data)
        obstacles += _of_budget(ledger, own_budget, (), own_plan, held_out)
    values = _or_noted(obstacles, lambda: parameter_count(job))
    return JobReview(
        silo=silo,
        job=job,
        job_digest=job_digest(job),
        policy=(),
        obstacles=tuple(obstacles),
        columns=tuple(used_columns(job.data)),
        parameters=values,
        frozen=frozen_count(job) if values else 0,
        plan=own_plan,
        held_out=held_out,
        budget=own_budget,
        traffic=_or_noted(obstacles, lambda: _traffic(job, values)),
        code={},
        folder=folder,
        fingerprint=None,
        concerns=(),
        earlier=None,
        hub="the driver",
    )


def _traffic(job: Job, values: int | None) -> Traffic | None:
    """Return the bytes of one silo's ciphertexts in the largest round, for that many parameters."""
    if values is None:
        return None
    values = max(sent_counts(job, values))
    parameters = parameters_of(job)
    up, down = body_bytes(parameters, parameters.reals(values, count_values(job)))
    return Traffic(up=up, down=down)


def _or_noted(obstacles: list[str], compute: Callable[[], T]) -> T | None:
    """Return what can be computed; if it cannot, note why."""
    try:
        return compute()
    except BlindsumError as error:
        obstacles.append(str(error))
        return None


def _of_identity(owner: Owner, job: Job, silo: str) -> Iterator[str]:
    pinned = job.silo(silo).identity
    own = fingerprint(open_identity(owner.state).public)
    if pinned and pinned != own:
        yield f"the job pins another identity for this silo: {pinned[:16]}, not {own[:16]}"
    open_ = [s.name for s in job.silos if s.name != silo and s.identity is None]
    if open_ and job.privacy.noise == "shared":
        yield (
            f"privacy.noise is shared, but the identities of {', '.join(open_)} are not pinned: "
            "this silo would refuse to start"
        )


def _of_budget(
    ledger: Ledger | None,
    own: Budget,
    fingerprints: tuple[str, ...],
    planned: PrivacyPlan | None,
    held_out: PrivacyPlan | None,
) -> Iterator[str]:
    """Yield why the lifetime limit refuses the job."""
    if ledger is None or own.limit is None:
        return
    if planned is None:
        yield "the dataset has a lifetime limit, and this job's epsilon is unbounded"
        return
    try:
        ledger.require_lifetime(known_dataset(ledger, own.dataset, fingerprints), planned, held_out)
    except LedgerError as error:
        yield str(error)


def _fingerprints(
    owner: Owner, inbox: Inbox, received: Received, job: Job, silo: str
) -> tuple[str, ...]:
    """Return the fingerprints of the table's columns that the job uses, the newest first.

    Raises:
        ConsentError, DataError: the table cannot be read, or does not meet the job.
    """
    return table_fingerprints(*_table(owner, inbox, received, job, silo))


def _concerns(
    owner: Owner, inbox: Inbox, received: Received, job: Job, silo: str
) -> tuple[str, ...]:
    """Return what is odd about the silo's data. Raises as `_fingerprints`."""
    return load_data(*_table(owner, inbox, received, job, silo)).concerns


def _table(
    owner: Owner, inbox: Inbox, received: Received, job: Job, silo: str
) -> tuple[Path, DataSection, Path, Tasks]:
    """Return the table's path, its contract, the file for rows at fault, and the private tasks."""
    section = job.silo(silo)
    places = places_under(owner, section, "")
    own = load_private_tasks(section, job, places.private_tasks)
    return places.table, job.data, inbox.folder(received.digest) / REJECTED_ROWS, own

"""`blindsum ledger`: tables of what a silo's data has spent, for its owner on its machine."""

from __future__ import annotations

import math
import time

from blindsum.actors.vault import open_identity
from blindsum.pipelines.show.console import show_result, show_warnings
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import LedgerError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import state_folder
from blindsum.platform.privacy.lifetime_limit import Limit
from blindsum.platform.privacy.sanity import doubtful_epsilon
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.state.ledger_entries import Dataset

DEFAULT_DELTA = 1e-5


def open_ledger(job_file: JobFile, silo: str, make: bool = False, adopt: bool = False) -> Ledger:
    """Open a silo's ledger on this machine.

    Args:
        make: create it if it does not exist.
        adopt: continue a ledger that another identity signed.

    Raises:
        JobError: the job has no such silo.
        LedgerError, KeyRefused: the ledger does not exist or cannot be trusted.
    """
    state = state_folder(job_file.silo(silo))
    path = state / "ledger.sqlite"
    if not make and not path.exists():
        raise LedgerError(
            f"silo '{silo}' has no ledger at {path}",
            "The silo's first run creates it, on the silo's own machine.",
        )
    return Ledger(path, silo, open_identity(state), adopt=adopt)


def show(ledger: Ledger) -> None:
    """Print each job's spend, and each dataset's spend over all jobs."""
    limit = ledger.limit()
    delta = limit.delta if limit else DEFAULT_DELTA
    jobs = Sheet(
        "job",
        "started (UTC)",
        "table",
        "charges",
        "epsilon",
        "held-out epsilon",
        "delta",
        title="jobs",
    )
    entries = ledger.entries()
    for name in dict.fromkeys(e.job for e in entries if e.job):
        of_job = [e for e in entries if e.job == name]
        charges = sum(e.kind in ("charge", "attempt") for e in of_job)
        begun = next(e for e in of_job if e.kind in ("reserve", "unprotected"))
        private = begun.kind == "reserve"
        noised = any(e.kind == "reserve held-out" for e in of_job)
        spent, held_out = (
            f"{max([e.epsilon or 0.0 for e in of_job if e.kind == kind], default=0.0):.4g}"
            for kind in ("charge", "charge held-out")
        )
        jobs.add(
            name,
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(of_job[0].time)),
            _table(begun.dataset),
            str(charges),
            spent if private else "unbounded",
            held_out if noised else "exact, no bound",
            f"{begun.delta:g}" if private else "",
        )
    show_result(jobs)
    tables = Sheet(
        "table",
        "jobs",
        "sum of epsilons",
        "sum of deltas",
        f"lifetime limit needed at delta {delta:g}",
        title="tables, over all jobs",
    )
    for dataset in dict.fromkeys(e.dataset for e in entries if e.dataset):
        past, as_one = (
            ledger.lifetime(Dataset(dataset)),
            ledger.lifetime_epsilon(Dataset(dataset), delta),
        )
        tables.add(
            _table(dataset),
            str(past.jobs),
            _number(past.epsilon),
            f"{past.delta:g}",
            _number(as_one),
        )
    show_result(tables)
    show_result(
        f"lifetime limit: epsilon {limit.epsilon:g} at delta {limit.delta:g} for each table"
        if limit
        else "lifetime limit: none (blindsum ledger limit)"
    )
    show_result(f"head: {ledger.chain.head()}", soft_wrap=True)


def set_limit(ledger: Ledger, epsilon: float, delta: float) -> None:
    """Set a lifetime limit for each of the silo's tables.

    Raises:
        LedgerError: epsilon or delta is out of range.
    """
    if not (0 < epsilon <= 1e6 and 1e-12 <= delta < 0.5):
        raise LedgerError(
            f"a lifetime limit of epsilon {epsilon:g} at delta {delta:g} is out of range",
            "Use epsilon above 0 and at most 1e6 (useful values are about 1 to 20), and delta from "
            "1e-12 to below 0.5.",
        )
    before = ledger.limit()
    ledger.set_limit(Limit(epsilon, delta))
    was = f"epsilon {before.epsilon:g} at delta {before.delta:g}" if before else "none"
    show_result(
        f"lifetime limit for each table in {ledger.path}: from {was} to epsilon {epsilon:g} at "
        f"delta {delta:g}",
        soft_wrap=True,
    )
    if found := doubtful_epsilon(epsilon, "a lifetime limit of epsilon"):
        show_warnings([found])


def _table(dataset: str) -> str:
    """Return the owner's name for a table, or the start of its fingerprint."""
    return dataset.removeprefix("dataset:") if ":" in dataset else dataset[:12]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "unbounded"

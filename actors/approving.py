"""Approving a job at a silo: it builds the model, keeps its code, and writes to the ledger."""

from __future__ import annotations

from pathlib import Path

from blindsum.actors.books import LEDGER
from blindsum.actors.vault import open_identity
from blindsum.platform.job.paths import import_from
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import Approval, Approvals, new_id
from blindsum.platform.state.approved_code import imported_from, keep_code
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.models import initial_digest, model_of


def approve_job(
    job: Job, silo: str, state: Path, folder: Path, runs: int, until: float
) -> Approval:
    """Approve a job with its initial weights and, if it has a `model.factory`, its code.

    Args:
        state: the silo's state folder.
        folder: the folder from which the factory is imported.
        until: end of the approval, seconds since 1970.

    Raises:
        ModelError: the model cannot be built.
        ConsentError, KeyRefused, LedgerError: the approval cannot be given or kept.
    """
    import_from(str(folder))
    weights: list[str] = []

    def build() -> None:
        weights.append(initial_digest(model_of(job)))

    factory = getattr(job.model, "factory", None)
    if factory is None:
        build()
        code = {}
    else:
        code = imported_from(folder, build, str(factory).partition(":")[0])
    id = new_id()
    keep_code(state, id, folder, code)
    ledger = Ledger(state / LEDGER, silo, open_identity(state))
    try:
        return Approvals(ledger).give(job, weights[0], runs, until, code, id)
    finally:
        ledger.close()

"""Approving a job at a silo: it reads the table, builds the model, keeps its code, and writes to
the ledger."""

from __future__ import annotations

from pathlib import Path

from blindsum import __version__
from blindsum.actors.books import LEDGER
from blindsum.actors.vault import open_identity
from blindsum.platform.data.member import REJECTED_ROWS
from blindsum.platform.data.table import table_fingerprints
from blindsum.platform.job.own_code import modules_of, own_function, own_functions
from blindsum.platform.job.paths import WEIGHTS, SiloPlaces, files_from, import_from
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import Approval, Approvals, new_id
from blindsum.platform.state.approved_code import imported_from, keep_code
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import initial_digest, model_of


def approve_job(
    job: Job, silo: str, places: SiloPlaces, folder: Path, runs: int, until: float
) -> Approval:
    """Approve a job with its initial weights, the code of its own functions, and the table's
    records, under this version of blindsum.

    Args:
        places: the silo's paths.
        folder: the folder from which the job's own functions are imported.
        until: end of the approval, seconds since 1970.

    Raises:
        DataError: the table cannot be read, or does not meet the job.
        ModelError: the model cannot be built, or the job's own functions cannot be used.
        ConsentError, KeyRefused, LedgerError: the approval cannot be given or kept.
    """
    own = load_private_tasks(job.silo(silo), job, places.private_tasks)
    rejects = places.of_run("approving") / REJECTED_ROWS
    dataset = table_fingerprints(places.table, job.data, rejects, own)[0]
    files_from(places.state / WEIGHTS)
    import_from(str(folder))
    weights: list[str] = []

    functions = own_functions(job)

    def build() -> None:
        weights.append(initial_digest(model_of(job, own=len(own))))
        record_loss(job, own)
        for setting, named in functions.items():
            own_function(setting, named)

    if not functions:
        build()
        code = {}
    else:
        code = imported_from(folder, build, modules_of(functions.values()))
    id = new_id()
    keep_code(places.state, id, folder, code)
    ledger = Ledger(places.state / LEDGER, silo, open_identity(places.state))
    try:
        return Approvals(ledger).give(job, weights[0], runs, until, code, id, dataset, __version__)
    finally:
        ledger.close()

"""Load the records that an audit attacks: a silo's own, with their labels of shared tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.computing import Told, computing_in
from blindsum.platform.data.member import REJECTED_ROWS, open_member
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData, load_molecules
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.job.paths import SiloPlaces
from blindsum.platform.job.schema import Job

Molecules = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Audited:
    """A silo's folds, private to the silo.

    `molecules` holds the SMILES of both folds in the same order, if the records are molecules;
    `left_out` describes what the audit leaves out.
    """

    data: SiloData
    molecules: Molecules | None
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Audited(private)"


def load_audited(
    job: Job, silo: str, places: SiloPlaces, told: Told = lambda share: None
) -> Audited:
    """Read the records to attack, without labels of private tasks.

    Private tasks train a head that stays in the silo, and the report may be shown to others.

    Args:
        told: called with the share of the table that was read.

    Raises:
        DataError: as `blindsum.platform.data.table.load_data`, or no training or no held-out record
            has a label of a shared task.
        JobError: all tasks are private.
    """
    if not job.data.outputs:
        raise JobError(
            "all tasks of this job are private, but the audit attacks only shared tasks",
            "Audit a job with a shared task over the same data.",
        )
    means = computing_in(places.state, told=told)
    member = open_member(job, silo, places, "audit", means)
    data = member.data
    rejects = places.of_run("audit") / REJECTED_ROWS
    molecules = load_molecules(places.table, job.data, rejects, member.own, means)
    if not member.own:
        return Audited(data, molecules)
    train, test = (_shared(fold, job.data.outputs) for fold in (data.train, data.test))
    for name, (fold, _) in (("training", train), ("held-out", test)):
        if not len(fold):
            raise DataError(
                f"no {name} record of this silo has a label of a shared task",
                "Audit another silo, or add labels of a shared task.",
            )
    if molecules:
        kept = (
            [s for s, k in zip(one, mask, strict=True) if k]
            for one, (_, mask) in zip(molecules, (train, test), strict=True)
        )
        molecules = next(kept), next(kept)
    left_out = (
        "this silo's private tasks, the head they train, and records labelled only in those tasks",
    )
    return Audited(replace(data, train=train[0], test=test[0]), molecules, left_out)


def _shared(fold: Fold, tasks: int) -> tuple[Fold, npt.NDArray[np.bool_]]:
    """Return the records with a label of a shared task, with only those labels, and their mask."""
    labels = fold.labels[:, :, :tasks]
    known = np.asarray(np.isfinite(labels[:, 0]).any(1))
    return Fold(fold.stored[known], labels[known]), known

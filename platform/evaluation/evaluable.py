"""Whether a silo's held-out records can be scored at all, which is known before the first round."""

from __future__ import annotations

from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.scores import LEAST, has_enough
from blindsum.platform.job.data_section import DataSection

NOTHING_TO_SCORE = (
    f"no shared task has {LEAST} held-out records of each class, or {LEAST} exact values: nothing "
    "here counts for the run's AUROC or R2. Hold out more records (data.folds.test_fraction), or "
    "give this silo more labels"
)
"""Tells a bit about a silo's labels. Where there is an owner's file, only the owner learns it."""


def evaluable(data: SiloData, contract: DataSection) -> tuple[str, ...]:
    """Return NOTHING_TO_SCORE if no shared task can be scored on the silo's held-out records."""
    if contract.target:
        return ()
    labels = data.test.labels
    tasks = (contract.tasks or {}).values()
    scored = any(has_enough(labels[:, :, i], task) for i, task in enumerate(tasks))
    return () if scored else (NOTHING_TO_SCORE,)

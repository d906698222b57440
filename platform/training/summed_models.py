"""The kinds of models that follow from sums. Each is imported for a job that has it: with SciPy and
RDKit they take a quarter of the time of a silo's imports."""

from __future__ import annotations

from blindsum.platform.job.regression_section import Regression
from blindsum.platform.job.schema import Job
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.sums import Summed


def summed_of(job: Job) -> Summed | None:
    """Return how a job's model follows from sums; None if it is trained by gradients.

    Raises:
        ModelError: as `Regressing`.
    """
    if isinstance(job.model, Boosted):
        from blindsum.platform.training.trees.boosting import Boosting

        return Boosting(job, job.model)
    if isinstance(job.model, Regression):
        from blindsum.platform.training.regression.fitting import Regressing

        return Regressing(job, job.model)
    if isinstance(job.model, Statistics):
        from blindsum.platform.training.statistics.describing import Describing

        return Describing(job, job.model)
    return None

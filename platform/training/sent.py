"""How many values a round's update has."""

from __future__ import annotations

from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.subset import chosen_count


def sent_counts(job: Job, parameters: int) -> tuple[int, ...]:
    """Return the number of values of the first rounds' updates; later rounds repeat them in turn.

    Args:
        parameters: the number of the model's parameters that the silos share.
    """
    if not isinstance(job.model, Boosted):
        return (chosen_count(parameters, job.training.subset),)
    from blindsum.platform.training.trees.boosting import Boosting  # imports torch

    boosting = Boosting(job, job.model)
    return tuple(map(boosting.values, range(1, job.model.exchanges + 1)))

"""How many values a round's update has."""

from __future__ import annotations

from blindsum.platform.job.schema import Job
from blindsum.platform.training.subset import chosen_count


def sent_counts(job: Job, parameters: int) -> tuple[int, ...]:
    """Return the number of values of the first rounds' updates; later rounds repeat them in turn.

    Args:
        parameters: the number of the model's parameters that the silos share.
    """
    if not job.model.is_summed:
        return (chosen_count(parameters, job.training.subset),)
    from blindsum.platform.training.summed_models import summed_of  # imports torch

    summed = summed_of(job)
    return tuple(map(summed.values, range(1, summed.different_rounds + 1))) if summed else ()

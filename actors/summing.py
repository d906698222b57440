"""What a job's rounds sum: with which parameters, within which range.

Sums of gradients are rounded to a few bits. Sums that have to be exact, as those of trees without
privacy, are integers, each a real of its own.
"""

from __future__ import annotations

from blindsum.he.parameters import Parameters
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, update_range


def parameters_of(job: Job) -> Parameters:
    """Return the parameters of a job's sums.

    Raises:
        EncryptionError: they cannot be exact; the message says what would fit.
    """
    found = Parameters.derive(len(job.silos), job.encryption.bits, scheme=job.encryption.scheme)
    return found.exact if job.sums_exactly else found


def first_range(job: Job, plan: PrivacyPlan | None) -> float:
    """Return the range of the first round's exchange. Of exact sums one unit is 1."""
    return float(parameters_of(job).limit) if job.sums_exactly else update_range(job, plan)

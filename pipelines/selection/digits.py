"""Which `encryption.bits` a chosen job needs: a large sample with little noise needs finer integers
than the default."""

from __future__ import annotations

from typing import Any

from blindsum.he.parameters import Parameters
from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan, update_range
from blindsum.platform.privacy.shared_noise import require_fine

_BITS = (None, 14, 16, 18, 20, 22, 24)


def encryption_of(job: Job) -> dict[str, Any]:
    """Return the section `encryption` that makes a private job's integers fine enough, by its key;
    nothing if the job's own bits are."""
    for bits in (job.encryption.bits, *_BITS):
        if all(_is_fine(job, silo, bits) for silo in job.roster):
            return {} if bits == job.encryption.bits else {"encryption": {"bits": bits}}
    return {}


def _is_fine(job: Job, silo: str, bits: int | None) -> bool:
    own = plan(job, silo)
    if own is None or own.share is None:
        return True
    limit = Parameters.derive(len(job.silos), bits).limit
    try:
        require_fine(own.share, update_range(job, own), limit)
    except PrivacyError:
        return False
    return True

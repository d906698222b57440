"""How far honest silos can move the model in one round: a public bound that every total is held to.

Under encryption nobody sees a single update, so a silo that lies could use the codec's whole room.
What honest silos send is bounded by clipping and noise, both public. A mean beyond that is scaled
down to it before it is applied. This looks at the total alone: post-processing, which costs no
privacy. It bounds the length of a step and says nothing of its direction.

Legend: n silos in the round, d values, C the clip norm (times the round's `clipping`), m the
expected batch size, z the update's noise multiplier, s the deviation of a silo's share of shared
noise, k local steps, r the learning rate, u one integer unit. A normal vector of deviation s stays
within s (sqrt(d) + TAIL) but with probability exp(-TAIL^2 / 2), about 2^-72 (Boucheron, Lugosi and
Massart, "Concentration Inequalities", 2013, theorem 5.6).

    shared noise    |sum|  <= n C m SLACK + s sqrt(n) (sqrt(d) + TAIL) + n u sqrt(d)
    local noise     |mean| <= r k C SLACK + r z C sqrt(k / n) / m (sqrt(d) + TAIL) + u sqrt(d)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, plan

TAIL = 10.0
SLACK = 2.0
"""How much larger than expected_batch_size a silo's samples may be before its sum is held back."""


def honest_reach(
    job: Job, own: PrivacyPlan | None, silos: int, values: int, unit: float, clipping: float
) -> float:
    """Greatest L2 norm of the mean update that honest silos reach; infinite without clipping.

    Args:
        own: this silo's plan. The job's own clip norm counts, which no silo's exceeds.
        unit: of one integer that silos send.
        clipping: the round's clip norm, in units of the job's.
    """
    section, training = job.privacy, job.training
    if own is None or section.noise == "none":
        return math.inf
    spread = math.sqrt(values) + TAIL
    clip_norm, batch = section.clip_norm * clipping, training.expected_batch_size
    rate = training.learning_rate
    if section.noise == "shared":
        of_sums = silos * clip_norm * batch * SLACK
        of_noise = (own.share or 0.0) * clipping * math.sqrt(silos) * spread
        of_rounding = silos * unit * math.sqrt(values)
        return rate / batch * (of_sums + of_noise + of_rounding) / silos
    steps = training.local_steps
    # The laxest budget has the least noise and the strictest the most: the job's greatest counts.
    of_sums = rate * steps * clip_norm * SLACK
    noisiest = max(own.update_noise, _greatest_noise(job))
    of_noise = rate * noisiest * clip_norm * math.sqrt(steps / silos) / batch * spread
    return of_sums + of_noise + unit * math.sqrt(values)


def _greatest_noise(job: Job) -> float:
    found = [plan(job, silo.name) for silo in job.silos if silo.epsilon is not None]
    return max([one.update_noise for one in found if one], default=0.0)


def held_to(mean: npt.NDArray[np.float64], norm: float, reach: float) -> bool:
    """Scale a mean update down to the reach, in place; whether it was beyond it.

    Args:
        norm: the mean's L2 norm.
    """
    if norm <= reach:
        return False
    mean *= reach / norm
    return True

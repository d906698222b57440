"""The reach: a public bound on how far honest silos can move the model in one round.

Under encryption nobody sees a single update, so a dishonest silo could use the whole range of the
encoding. Clipping and noise, both public, bound the updates of honest silos. A mean update beyond
that bound is scaled down to it before it is applied. The step looks only at the total: it is
post-processing and costs no privacy. It bounds the length of a step, not its direction.

Legend: n silos in the round, d values, C the clip norm (times the round's `clipping`), m the
expected batch size, z the update's noise multiplier, s the standard deviation of a silo's share of
shared noise, k local steps, r the learning rate, u one integer unit. The norm of a normal vector
of standard deviation s exceeds s (sqrt(d) + TAIL) with probability at most exp(-TAIL^2 / 2), about
2^-72 (Boucheron, Lugosi and Massart, "Concentration Inequalities", 2013, theorem 5.6).

    shared noise    |sum|  <= n C m SLACK + s sqrt(n) (sqrt(d) + TAIL) + n u sqrt(d)
    local noise     |mean| <= r k C SLACK + r z C sqrt(k / n) / m (sqrt(d) + TAIL) + u sqrt(d)
    with adam       |mean| <= r k a sqrt(d) + u sqrt(d), a as in `most_of_adam`

Local momentum lengthens the steps and their noise by at most `most_of_momentum`. A proximal pull
shortens them.
"""

from __future__ import annotations

import math

from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.local_steps import most_of_adam, most_of_momentum
from blindsum.platform.privacy.plan import PrivacyPlan, plan

TAIL = 10.0
SLACK = 2.0
"""Factor by which a silo's sample may exceed expected_batch_size before its sum is scaled down."""


def honest_reach(
    job: Job,
    own: PrivacyPlan | None,
    silos: int,
    values: int,
    unit: float,
    clipping: float,
    round: int,
) -> float:
    """Return the greatest L2 norm of honest silos' mean update; infinite without clipping.

    Args:
        own: this silo's plan. The bound uses the job's clip norm, which no silo's clip norm
            exceeds.
        silos: n, the number of silos in the round.
        values: d, the number of values in the update.
        unit: u, the size of one integer unit.
        clipping: the round's clip norm, in units of the job's.
        round: the round, on which the learning rate may depend.
    """
    section, training = job.privacy, job.training
    if own is None or section.noise == "none":
        return math.inf
    spread = math.sqrt(values) + TAIL
    clip_norm, batch = section.clip_norm * clipping, training.expected_batch_size
    rate = training.rate(round)
    if section.noise == "shared":
        of_sums = silos * clip_norm * batch * SLACK
        of_noise = (own.share or 0.0) * clipping * math.sqrt(silos) * spread
        of_rounding = silos * unit * math.sqrt(values)
        return rate / batch * (of_sums + of_noise + of_rounding) / silos
    steps = training.local_steps
    if training.optimizer == "adam":
        return (rate * steps * most_of_adam(training) + unit) * math.sqrt(values)
    rate *= most_of_momentum(training)
    # The strictest budget has the most noise, so the bound uses the greatest noise in the job.
    of_sums = rate * steps * clip_norm * SLACK
    noisiest = max(own.update_noise, _greatest_noise(job))
    of_noise = rate * noisiest * clip_norm * math.sqrt(steps / silos) / batch * spread
    return of_sums + of_noise + unit * math.sqrt(values)


def _greatest_noise(job: Job) -> float:
    found = [plan(job, silo.name) for silo in job.silos if silo.epsilon is not None]
    return max([one.update_noise for one in found if one], default=0.0)


def held_to(norm: float, reach: float) -> float:
    """Return the factor that scales a mean update of that L2 norm down to the reach: 1 if it is
    within it."""
    return 1.0 if norm <= reach else reach / norm

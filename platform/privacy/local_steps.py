"""How far the optimizer of the local steps can move a parameter: part of the reach of a round."""

from __future__ import annotations

import math

from blindsum.platform.job.training_section import TrainingSection

BETA2 = 0.999
"""Of adam."""


def most_of_momentum(training: TrainingSection) -> float:
    """Return the factor by which momentum can lengthen the sum of a round's steps."""
    if training.optimizer != "momentum":
        return 1.0
    beta, steps = training.momentum, training.local_steps
    return (1 - beta**steps) / (1 - beta)


def most_of_adam(training: TrainingSection) -> float:
    """Return the greatest change of one parameter by one step of adam, in units of the learning
    rate.

    With the first and second moments as sums over all gradients, the inequality of Cauchy and
    Schwarz bounds their quotient by (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)). The correction of
    their bias multiplies it by at most sqrt(1 - b2^t) / (1 - b1^t).
    """
    beta = training.momentum
    bound = (1 - beta) / math.sqrt((1 - BETA2) * (1 - beta**2 / BETA2))
    corrections = (
        math.sqrt(1 - BETA2**t) / (1 - beta**t) for t in range(1, training.local_steps + 1)
    )
    return bound * max(corrections)

"""What a silo's training contributes to one round, and what protects it until it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from blindsum.platform.training.models import Vector


class Protection(Enum):
    """What stands between an update's values and the records that they were computed from."""

    NOTHING = "no differential privacy: the values are the records' own"
    OWN_NOISE = "clipping and this silo's noise: the silo's plan covers one round of them"
    SHARES_TO_ADD = "clipping alone: nobody may see the values before every silo's share is added"


@dataclass(frozen=True, kw_only=True)
class Update:
    """One silo's contribution to one round.

    Attributes:
        values: float32 [parameters]. A change of the parameters, or a sum of clipped gradients.
        unit: the change of the parameters that a value of 1 stands for: 1 for a change, and
            -learning_rate / expected_batch_size for a sum of gradients.
        protected_by: what may be done with the values. Values with `SHARES_TO_ADD` leave the silo
            only through `blindsum.platform.privacy.shared_noise.noised_integers`.
        unclipped: gradients within the clip norm, minus half of all; 0 without a plan.
    """

    values: Vector = field(repr=False)
    unit: float
    protected_by: Protection
    unclipped: float = field(default=0.0, repr=False)

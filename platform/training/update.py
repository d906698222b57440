"""A silo's contribution to one round, and its protection until it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy.typing as npt


class Protection(Enum):
    """The protection between an update's values and the records from which they were computed."""

    NOTHING = "no differential privacy: the values depend on the records without limit"
    OWN_NOISE = "clipping and this silo's noise: the silo's plan covers one round of them"
    SHARES_TO_ADD = "clipping only: nobody may see the values before every silo's share is added"


@dataclass(frozen=True, kw_only=True)
class Update:
    """One silo's contribution to one round.

    Attributes:
        values: float32 [parameters]. A change of the parameters, or a sum of clipped gradients. Of
            trees float64 [sent values]: sums, or sums in units of a change.
        unit: the change of the parameters that a value of 1 stands for: 1 for a change, and
            -learning_rate / expected_batch_size for a sum of gradients.
        protected_by: the protection of the values. Values with `SHARES_TO_ADD` leave the silo only
            through `blindsum.platform.privacy.shared_noise.noised_integers`.
        unclipped: the number of gradients within the clip norm, minus half of all; 0 without a
            plan.
    """

    values: npt.NDArray[Any] = field(repr=False)
    unit: float
    protected_by: Protection
    unclipped: float = field(default=0.0, repr=False)

"""Control variates of silos whose records differ: SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich
and Suresh, ICML 2020), option II, with all silos of the roster in every round.

Without them each silo's steps lead towards the optimum of its own records, the further the more
steps a round has. With c_i the direction of silo i's last round and c the mean of all silos', every
step goes by g - c_i + c instead of the gradient g.

Legend: D_i the change that silo i sent, as the sum counts it: noised, cut and rounded; k local
steps, r the learning rate of the round, n silos.

    in a step       y   <- y - r (g - c_i + c)
    after a round   c_i <- c_i - c - D_i / (k r)
                    c   <- - mean(D_i) / (k r)

Nothing more travels. All variates begin at zero, so mean(c_i) = c; then the mean of the new c_i is
mean(c_i) - c - mean(D_i) / (k r), which is the new c. Every silo computes it from the mean change
that all have received. As the c_i - c add up to zero, the mean change is bounded as without them
(`blindsum.platform.privacy.reach`).

All silos must begin at zero together, or the c_i - c would add up to a lasting bias. So variates
begin anew with another roster, with every key ceremony (when a run resumes or a silo returns), and
after a mean that was scaled down to its bound: events that all silos of a round see.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.vector import Vector

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ControlVariates:
    """One silo's control variates. `own` is private to the silo as long as what it sends is, and
    computed from what it sent alone; `common` is the same in every silo. Float64 [parameters].

    Attributes:
        roster: the silos among which `common` is the mean.
    """

    own: Values = field(repr=False)
    common: Values = field(repr=False)
    roster: tuple[str, ...]

    @classmethod
    def none(cls, parameters: int, roster: tuple[str, ...]) -> ControlVariates:
        """Return those of a roster at the beginning."""
        zero = np.zeros(parameters)
        return cls(own=zero, common=zero, roster=roster)

    @property
    def correction(self) -> Vector:
        """What a step adds to its direction, c_i - c, float32 [parameters]."""
        found: Vector = (self.own - self.common).astype(np.float32)
        return found

    def after(self, sent: Vector, mean: Values, length: float) -> ControlVariates:
        """Return the variates after a round.

        Args:
            sent: D_i, the change that this silo sent, float32 [parameters].
            mean: of the changes that all silos of the roster sent.
            length: k r, the steps of the round times their rate.
        """
        own = self.own - self.common - sent / length
        return ControlVariates(own=own, common=-mean / length, roster=self.roster)

"""An update as the integers that a silo sends: a range at a time, so that none is held whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blindsum.he.exchange import Exchange
from blindsum.he.packing import Integers, quantise
from blindsum.he.parameters import Parameters
from blindsum.platform.evaluation.round_counts import Tally
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, greatest_sum
from blindsum.platform.privacy.shared_noise import noised_integers
from blindsum.platform.training.models import Vector


class Digitiser:
    """Quantises one silo's updates, and where noise is shared adds the silo's share of it.

    Args:
        random: draws the noise, or the stochastic rounding.
    """

    def __init__(
        self,
        job: Job,
        plan: PrivacyPlan | None,
        parameters: Parameters,
        random: np.random.Generator,
    ) -> None:
        self._job, self._plan, self._parameters, self._random = job, plan, parameters, random

    def digits(
        self, update: Vector, exchange: Exchange, bound: float, tally: Tally
    ) -> Callable[[slice], Integers]:
        """Gives the integers, int64, of a range of the update; each range is asked for once.

        Args:
            bound: greatest magnitude of a value; one unit is `bound / limit`.
            tally: counts the values that the bound cuts.
        """
        plan, clipping = self._plan, exchange.clipping

        def noised(where: slice) -> Integers:
            unit = bound / self._parameters.limit
            cut = greatest_sum(self._job) * clipping
            share = plan.share * clipping if plan else 0.0
            return noised_integers(update[where], cut, share, unit, self._random)

        def quantised(where: slice) -> Integers:
            found = quantise(update[where], bound, self._parameters, self._random)
            tally.saturated += found.saturated
            tally.large += found.large
            return found.integers

        return noised if plan and plan.share else quantised

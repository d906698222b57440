"""Conversion of an update to the integers that a silo sends, range by range, so that the whole is
never in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blindsum.he.exchange import Exchange
from blindsum.he.packing import Integers, quantise
from blindsum.he.parameters import Parameters
from blindsum.platform.evaluation.round_counts import Tally
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, greatest_sum, update_range
from blindsum.platform.privacy.shared_noise import noised_integers, require_fine
from blindsum.platform.training.update import Protection, Update
from blindsum.platform.training.vector import Vector


def noting(
    digits: Callable[[slice], Integers], values: Vector, unit: float
) -> Callable[[slice], Integers]:
    """Return that function, and have it note what it returned, times the unit, in `values`."""

    def noted(where: slice) -> Integers:
        integers = digits(where)
        values[where] = integers * unit
        return integers

    return noted


class Digitiser:
    """The quantiser of one silo's updates. Under shared noise it adds the silo's share.

    Args:
        random: draws the noise, or the stochastic rounding.

    Raises:
        PrivacyError: one integer unit is too coarse for the silo's share of the noise.
    """

    def __init__(
        self,
        job: Job,
        plan: PrivacyPlan | None,
        parameters: Parameters,
        random: np.random.Generator,
    ) -> None:
        self._job, self._parameters, self._random = job, parameters, random
        self._share = plan.share if plan else None
        if self._share is not None:
            require_fine(self._share, update_range(job, plan), parameters.limit)

    def digits(
        self, update: Update, exchange: Exchange, bound: float, tally: Tally
    ) -> Callable[[slice], Integers]:
        """Return a function from a range of the update to its integers, int64. Call it once for
        each range. With `encryption.error_feedback` it leaves in the update what was not sent.

        Args:
            bound: the greatest magnitude of a value; one unit is `bound / limit`.
            tally: counts the values that the bound cuts.

        Raises:
            ValueError: the update needs a share of the noise, but this silo's plan has none.
        """

        def noised(where: slice, share: float) -> Integers:
            unit = bound / self._parameters.limit
            cut = greatest_sum(self._job) * exchange.clipping
            return noised_integers(update.values[where], cut, share, unit, self._random)

        feeds_back = self._job.encryption.error_feedback
        rounding = None if feeds_back else self._random

        def quantised(where: slice) -> Integers:
            digits = quantise(update.values[where], bound, self._parameters, rounding)
            tally.saturated += digits.saturated
            tally.large += digits.large
            if feeds_back:
                update.values[where] -= digits.integers * (bound / self._parameters.limit)
            return digits.integers

        # The update's own protection decides, not the plan: a bare sum is never sent without noise.
        if update.protected_by is not Protection.SHARES_TO_ADD:
            return quantised
        if not self._share:
            raise ValueError("the update carries no noise, and this silo has no share to add")
        share = self._share * exchange.clipping
        return lambda where: noised(where, share)

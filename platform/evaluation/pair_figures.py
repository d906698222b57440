"""Means over silo-task pairs, of all shared tasks or of a group of them. Public."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blindsum.platform.evaluation.intervals import Interval, of_figure

OF_GROUP = ("auroc", "conformal_efficiency")

GROUP_COUNTS = (
    *("binary_tasks", *OF_GROUP, "binary_diverged", "positives", "negatives"),
    *(f"{name}_variance" for name in OF_GROUP),
    *("regression_tasks", "r2", "regression_diverged", "r2_variance"),
)
"""The counts of each group of tasks: sums over silos, and over their tasks of the group."""


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """The mean of each figure over silo-task pairs; NaN for a kind without a pair, or if all pairs
    of the kind diverged.

    `binary_tasks` and `regression_tasks` count a task once for each silo that has enough labels of
    it. `positives` and `negatives` are the labels of the binary ones. `binary_diverged` counts
    pairs for which the model has no finite output (its figures are the worst there are),
    `regression_diverged` also those with an R2 below -1 (which counts as -1).

    Variances are those of the means, see `blindsum.platform.evaluation.influence`.
    """

    binary_tasks: int
    auroc: float
    conformal_efficiency: float
    binary_diverged: int
    positives: int
    negatives: int
    auroc_variance: float
    conformal_efficiency_variance: float
    regression_tasks: int
    r2: float
    regression_diverged: int
    r2_variance: float

    def interval(self, name: str) -> Interval | None:
        """Return the interval of a figure that has a variance; None if it is NaN."""
        mean, variance = getattr(self, name), getattr(self, f"{name}_variance")
        if math.isnan(mean):
            return None
        return of_figure(name, mean, variance, self.positives, self.negatives, self.binary_tasks)

    def of_group(self) -> dict[str, float]:
        """Return the figures that are not NaN, with the ends of their intervals, and the numbers of
        pairs."""
        found: dict[str, float] = {}
        for kind, names in (("binary_tasks", OF_GROUP), ("regression_tasks", ("r2",))):
            if getattr(self, kind):
                found[kind] = getattr(self, kind)
                for name in names:
                    found |= self.ends(name, with_mean=True)
        return found

    def ends(self, name: str, with_mean: bool = False) -> dict[str, float]:
        """Return the ends of a figure's interval by name; nothing if it is NaN."""
        found = self.interval(name)
        if found is None:
            return {}
        mean = {name: getattr(self, name)} if with_mean else {}
        return mean | {f"{name}_low": found.low, f"{name}_high": found.high}

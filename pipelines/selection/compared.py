"""The comparison: every setting on every fold, the best setting of each representation, its score.

A representation's score on a fold is that of the setting that is best on the other folds, so that
the choice of settings does not flatter it. Standard errors are those of Nadeau and Bengio (Machine
Learning 2003, 52, 239, section 3): folds share training records, so the variance of their mean is
(1 / K + 1 / (K - 1)) times the variance between K folds, not 1 / K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from blindsum.pipelines.selection.candidates import Plan, Setting
from blindsum.pipelines.selection.public_records import PublicRecords
from blindsum.pipelines.selection.trial import dealt, score, trained
from blindsum.platform.errors import DataError

Scores = npt.NDArray[np.float64]
LEAST_FOLDS = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over folds and its standard error."""

    mean: float
    error: float
    folds: int

    @classmethod
    def of(cls, by_fold: Scores) -> Estimate:
        """Return the estimate from K values, one for each fold."""
        folds = len(by_fold)
        error = (float(by_fold.var(ddof=1)) * (1 / folds + 1 / (folds - 1))) ** 0.5
        return cls(float(by_fold.mean()), error, folds)

    @property
    def is_zero(self) -> bool:
        """Whether Student's 95 % interval includes 0."""
        return abs(self.mean) <= self.error * float(student.ppf(0.975, self.folds - 1))

    def signed(self) -> str:
        """Return the estimate as a difference."""
        return f"{self.mean:+.3f} ± {self.error:.3f}"

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Compared:
    """A representation: the setting that is best over all folds, and the score on each fold, with
    the setting that is best on the others."""

    setting: Setting
    by_fold: Scores

    @property
    def name(self) -> str:
        """The representation."""
        return self.setting.representation

    @property
    def estimate(self) -> Estimate:
        """The mean score."""
        return Estimate.of(self.by_fold)

    def over(self, other: Compared) -> Estimate:
        """Return the mean difference from another representation, paired by fold."""
        return Estimate.of(self.by_fold - other.by_fold)


def compared(
    records: PublicRecords,
    settings: Sequence[Setting],
    plan: Plan,
    folds: int,
    seeds: int,
    done: Callable[[], None] = lambda: None,
) -> list[Compared]:
    """Compare representations; returns them by score, the best first.

    Args:
        settings: those of one representation one after the other.
        seeds: trainings of each setting on each fold; their scores are averaged.
        done: called after each training.

    Raises:
        DataError: a silo or a fold has too few records.
    """
    table = np.array([_by_fold(records, one, plan, folds, seeds, done) for one in settings])
    found, first = list[Compared](), 0
    for _, group in groupby(settings, lambda one: one.representation):
        own = list(group)
        found.append(_best(own, table[first : first + len(own)]))
        first += len(own)
    return sorted(found, key=lambda one: -one.estimate.mean)


def _by_fold(
    records: PublicRecords,
    setting: Setting,
    plan: Plan,
    folds: int,
    seeds: int,
    done: Callable[[], None],
) -> Scores:
    where, found = records.parts("fold", folds), np.zeros((folds, seeds))
    for fold in range(folds):
        held_out = records.fold(setting.representation, where == fold)
        for seed in range(1, seeds + 1):
            silos = dealt(records, where != fold, plan, seed)
            if not len(held_out) or not all(rows.any() for rows in silos):
                raise DataError(
                    f"a silo or a fold has no record: there are too few scaffolds for "
                    f"{plan.silos} silos and {folds} folds",
                    "Give fewer --silos or --folds, or more public molecules.",
                )
            model = trained(records, silos, setting, plan, seed)
            found[fold, seed - 1] = score(model, held_out, records)
            done()
    if np.isnan(found).any():
        raise DataError(
            "a fold has no task with five labels of each class",
            "Give fewer --folds, or more public molecules.",
        )
    mean: Scores = found.mean(1)
    return mean


def _best(settings: Sequence[Setting], by_fold: Scores) -> Compared:
    """Choose among the settings of one representation, float64 [settings, folds]."""
    folds = by_fold.shape[1]
    others = (by_fold.sum(1, keepdims=True) - by_fold) / (folds - 1)
    nested = by_fold[others.argmax(0), np.arange(folds)]
    return Compared(settings[int(by_fold.mean(1).argmax())], nested)

"""Conformal prediction of a binary task inside one silo. Private to the silo.

A set of labels is predicted for each record, so that at most SIGNIFICANCE of the positives, and of
the negatives, have a set without their label. The prediction is Mondrian and inductive (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, chapter 4): it is calibrated
for each class apart, on records that trained nothing. The score is the logit itself: a record fits
the positives the worse the smaller it is, and the negatives the worse the larger it is.

    p of a label    (1 + calibration records of the label that fit it no better) / (1 + all of them)
    set             the labels whose p is above SIGNIFICANCE
    efficiency      share of records with one label in their set. The more of them, the wider the
                    domain in which a model says something (Heyndrickx et al., J. Chem. Inf. Model.
                    2023, MELLODDY). Guessing has 2 * SIGNIFICANCE
    empty           share of records with no label in their set, which fit neither class well. A
                    model that errs less often than SIGNIFICANCE has such, at the expense of the
                    efficiency: one without an error has an efficiency of 1 - SIGNIFICANCE
    validity        share of positives, and of negatives, whose set has their label

Held-out records calibrate each other: they are dealt into ten parts, each of which is calibrated on
the nine others. So every record counts, and none of them calibrates its own set. If records are
exchangeable within their class, each set has the label with a probability of at least
1 - SIGNIFICANCE.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from blindsum.platform.evaluation.figures import SIGNIFICANCE
from blindsum.platform.evaluation.influence import Reals, within_classes

PARTS = 10
"""Into which held-out records are dealt."""

_ROUNDING = 1e-9


class Conformal(NamedTuple):
    """The figures of one task.

    `covered_positives` and `covered_negatives` are the numbers of records whose set has their
    label. `influence` has each record's on the efficiency, float64 [records].
    """

    efficiency: float
    empty: float
    covered_positives: int
    covered_negatives: int
    influence: Reals


def conformal(true: Reals, said: Reals) -> Conformal:
    """Return the figures of predictions, calibrated on each other.

    Args:
        true: 0 or 1, [records]; at least two records of each class.
        said: finite logits, [records].
    """
    positive = true == 1
    sets = p_values(true, said, dealt(positive.astype(np.int64), PARTS)) > SIGNIFICANCE + _ROUNDING
    single = sets.sum(axis=1) == 1
    return Conformal(
        efficiency=float(single.mean()),
        empty=float((~sets).all(axis=1).mean()),
        covered_positives=int(sets[positive, 1].sum()),
        covered_negatives=int(sets[~positive, 0].sum()),
        influence=_on_efficiency(positive, said, single),
    )


def p_values(true: Reals, said: Reals, parts: npt.NDArray[np.int64]) -> Reals:
    """Return the p of label 0 and of label 1, float64 [records, 2], each record's from the records
    of the other parts. Equal logits fit equally well, which is on the safe side."""
    found = np.empty((len(true), 2))
    for label, sign in ((0, -1.0), (1, 1.0)):
        fits, of_label = sign * said, true == label
        worse = _no_larger(fits[of_label], fits)
        total = np.full(len(true), of_label.sum())
        for part in np.unique(parts):
            here = parts == part
            worse[here] -= _no_larger(fits[here & of_label], fits[here])
            total[here] -= (here & of_label).sum()
        found[:, label] = (worse + 1) / (total + 1)
    return found


def dealt(classes: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
    """Return each record's part, int64 [records], by its class, int64 [records].

    Every part has its share of each class, whatever the order of the table. The same records have
    the same parts for every model.
    """
    shuffled = np.random.default_rng(0).permutation(len(classes))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    found = np.empty(len(classes), np.int64)
    found[order] = np.arange(len(classes)) % parts
    return found


def least_of_share(share: float, records: int) -> float:
    """Return the least variance that a share of that many records is given: within half a record of
    0 or 1, that of a share half a record away; elsewhere there is no least one."""
    edge = 1 / (2 * records)
    return 0.0 if edge <= share <= 1 - edge else edge * (1 - edge) / records


def _no_larger(of: Reals, than: Reals) -> npt.NDArray[np.int64]:
    """Return how many of the values are no larger than each of the others."""
    return np.searchsorted(np.sort(of), than, side="right")


def _on_efficiency(
    positive: npt.NDArray[np.bool_], said: Reals, single: npt.NDArray[np.bool_]
) -> Reals:
    """Return each record's influence on the efficiency: by its own set, and by the threshold of its
    class, which is a quantile of the class (delta method)."""
    found = single * np.where(positive, positive.mean(), 1 - positive.mean())
    above, below = _threshold(said[positive]), -_threshold(-said[~positive])
    # Between two thresholds that cross, sets are empty, and else they have both labels: moving a
    # threshold towards the other makes singles there, or takes them away.
    sign = 1.0 if above < below else -1.0
    found[positive] -= sign * _moves(said, positive) * (said[positive] <= above)
    found[~positive] -= sign * _moves(-said, ~positive) * (said[~positive] >= below)
    return within_classes(found, positive, int(positive.sum()), int((~positive).sum()))


def _threshold(fits: Reals) -> float:
    """Return the value that a record must reach to have its class's label in its set."""
    return float(np.quantile(fits, SIGNIFICANCE))


def _moves(fits: Reals, own: npt.NDArray[np.bool_]) -> float:
    """Return by how much the share of all records beyond a threshold changes with that of the
    records whose quantile it is: the ROC curve's slope there, over two deviations to either side:
    in few records, the slope at one point is chance."""
    reach = 2 * (SIGNIFICANCE * (1 - SIGNIFICANCE) / own.sum()) ** 0.5
    ends = max(SIGNIFICANCE - reach, 0.0), min(SIGNIFICANCE + reach, 1.0)
    low, high = np.quantile(fits[own], ends)
    others = fits[~own]
    slope = ((others >= low) & (others <= high)).mean() / (ends[1] - ends[0])
    share = own.mean()
    return float(share + (1 - share) * slope)

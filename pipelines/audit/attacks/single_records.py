"""What the sums of g and h look like if they are those of one record.

With p the probability that the forest gives, w the record's weight, and c 1 for a logistic loss and
2 for a softmax of several classes (`blindsum.platform.training.trees.gradients`):

    label 1     g = -w (1 - p),           h = c w p (1 - p)
    label 0     g =  w p,                 h = c w p (1 - p)
    a number    g =  w (prediction - y),  h = w

So h follows from g. Under a plan the two are scaled down together, and their ratio gives p.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.tree_sums import Seen
from blindsum.platform.data.records import Fold
from blindsum.platform.training.clipping.clipped import STABLE
from blindsum.platform.training.trees.boosting import HESSIAN_WEIGHT, UNIT

Found = tuple[tuple[int, ...], int, float]
"""A record: its bin of every feature, and its label for one of the outputs."""

Bools = npt.NDArray[np.bool_]
ROUNDING = 2.0
"""Units by which a single record's sums may differ from what their ratio says: all are rounded."""


class Singles:
    """Single records of one of the outputs that have trees."""

    def __init__(self, seen: Seen, output: int) -> None:
        job, boosting = seen.job, seen.boosting
        self.output, self._target = boosting.grown[output], job.data.target
        self._edges, self._outputs = boosting.bins.edges, boosting.outputs
        self._plan, self._grown = seen.plan, len(boosting.grown)
        self._places = len(boosting.columns(0)) if boosting.section.split == "best" else 1
        self._factor, self.numeric = 1.0, False
        if self._target:
            weights = self._target.weights
            self._of_one = weights[self.output]
            self._of_zero = sorted({w for c, w in enumerate(weights) if c != self.output})
            self._factor = 1.0 if len(weights) == 2 else 2.0
        else:
            task = list((job.data.tasks or {}).values())[self.output]
            self.numeric, self._of_zero = task.kind != "binary", [task.weight]
            self._of_one = task.weight * (1.0 if self.numeric else task.positive_weight)

    def there(self, g: npt.NDArray[np.int64], h: npt.NDArray[np.int64]) -> Bools:
        """Return where sums of g and h, in units of UNIT, are those of one record.

        Of several outputs under a plan none are: what scales them down is not in one output."""
        if self.numeric:
            return np.abs(h * UNIT - self._of_one) <= UNIT if self._plan is None else h < 0
        if self._plan and self._grown > 1:
            return np.zeros(g.shape, np.bool_)
        found = np.zeros(g.shape, np.bool_)
        for one, weights in ((True, [self._of_one]), (False, self._of_zero)):
            for weight in weights:
                found |= self._of_weight(g, h, weight) & ((g < 0) == one)
        return found & (h > 0)

    def _of_weight(
        self, units_of_g: npt.NDArray[np.int64], units_of_h: npt.NDArray[np.int64], weight: float
    ) -> Bools:
        """Return where sums are those of one record of that weight."""
        g, h = units_of_g.astype(np.float64) * UNIT, units_of_h.astype(np.float64) * UNIT
        away = np.abs(g) / weight  # of the probability from the label
        if self._plan is None:
            expected, given = self._factor * weight * away * (1 - away), h
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                away = 1 - h / np.abs(g) / (HESSIAN_WEIGHT * self._factor)
            away = np.nan_to_num(away, nan=-1.0, posinf=-1.0, neginf=-1.0)
            weighted = HESSIAN_WEIGHT * self._factor * away * (1 - away)
            norms = weight * np.sqrt(self._places * (away * away + weighted * weighted))
            expected = weight * away * np.minimum(1.0, self._plan.clip_norm / (norms + STABLE))
            given = np.abs(g)
        reach = ROUNDING * UNIT * max(1.0, self._factor)
        found: Bools = (np.abs(given - expected) <= reach) & (away >= 0) & (away <= 1)
        return found

    def label(self, g: float, of_zero: float) -> float:
        """Return the label of a record with g.

        Args:
            of_zero: g of the same record, were its label 0; only a number needs it.
        """
        if self.numeric:
            return float(np.float32((of_zero - g) * UNIT / self._of_one))
        return float(g < 0)

    def fold(self, records: Iterable[Found]) -> Fold:
        """Return records with those bins and labels for this output, and no label for others."""
        found = list(records)
        features = np.zeros((len(found), len(self._edges)), np.float32)
        for column, edges in enumerate(self._edges):
            values = np.concatenate([[edges[0] - 1], edges])
            features[:, column] = values[[bins[column] for bins, _, _ in found]]
        labels = np.array([label for _, _, label in found], np.float32)
        if self._target:
            other = (self.output + 1) % self._outputs
            return Fold(features, np.where(labels > 0, self.output, other).astype(np.int64))
        tasks = np.full((len(found), 2, self._outputs), np.nan, np.float32)
        tasks[:, 1], tasks[:, 0, self.output] = 0.0, labels
        return Fold(features, tasks)


def true_records(seen: Seen, fold: Fold) -> list[Found]:
    """Return the records of a fold as an attack may find them: one for each known label."""
    bins = [tuple(map(int, row)) for row in seen.boosting.bins.of(fold.features)]
    if seen.job.data.target:
        two = seen.boosting.outputs == 2
        return [
            (row, 1, float(y)) if two else (row, int(y), 1.0)
            for row, y in zip(bins, fold.labels.tolist(), strict=True)
        ]
    values = fold.labels[:, 0]
    return [(bins[i], int(k), float(values[i, k])) for i, k in np.argwhere(~np.isnan(values))]

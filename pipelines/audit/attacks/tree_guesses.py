"""Guess other silos' records in a job of trees: the most frequent bins of each label.

A fold that is not attacked stands for public knowledge. Noised histograms add to it: those of all
trees' roots are, but for noise, the numbers of records of each label times what such a record adds.
The participant knows what records add from its own. Least squares give the numbers, and both
variances say how much they count beside public knowledge.

Legend: F features, B bins, Y labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.single_records import Found, Singles
from blindsum.pipelines.audit.attacks.tree_sums import Seen

Label = tuple[int, float]
"""An output, and a label of it; all numbers are one."""

Guesses = dict[Label, npt.NDArray[np.int64]]
"""The guessed bin of each feature, [F], by label."""

Reals = npt.NDArray[np.float64]
LEAST = 0.5
"""Records that public knowledge allows for in every bin."""


def label_of(seen: Seen, record: Found) -> Label:
    """Return the label by which a record is guessed."""
    _, output, label = record
    tasks = list((seen.job.data.tasks or {}).values())
    numeric = bool(tasks) and tasks[output].kind != "binary"
    return output, 0.0 if numeric else label


def usual(seen: Seen, records: Sequence[Found]) -> Guesses:
    """Return the guesses of one who knows those records."""
    return {label: counts.argmax(1) for label, counts in _counts(seen, records).items()}


def usual_with_noise(
    seen: Seen, public: Sequence[Found], own: Sequence[Found], noise: float, count: int
) -> Guesses:
    """Return the guesses of a participant who also sees noised histograms.

    Args:
        public, own: records that are public knowledge, and the participant's.
        noise: the deviation of the noise on a sum.
        count: the number of the others' records.
    """
    known, found = _counts(seen, public), usual(seen, public)
    roots = range(1, len(seen.sums) + 1, seen.boosting.section.exchanges)
    for place, output in enumerate(seen.boosting.grown):
        labels, adds = _adds(seen, place, [one for one in own if one[1] == output], roots)
        if not labels:
            continue
        got = np.stack([seen.sums[round - 1][place, 0] for round in roots])  # [roots, F, B, 2]
        design = np.moveaxis(adds, 0, -1).reshape(-1, len(labels))  # [roots x 2, Y]
        inverse = np.linalg.pinv(design.T @ design)
        flat = np.moveaxis(got, -1, 1).reshape(len(design), -1)  # [roots x 2, F x B]
        numbers = (inverse @ design.T @ flat).reshape(len(labels), *got.shape[1:3])
        for i, label in enumerate(labels):
            if label in known:
                expected = (known[label] + LEAST) / len(public) * count
                weight = 1 / (noise**2 * max(float(inverse[i, i]), 1e-300))
                sure = 1 / (expected + 1)
                found[label] = ((expected * sure + numbers[i] * weight) / (sure + weight)).argmax(1)
    return found


def _counts(seen: Seen, records: Sequence[Found]) -> dict[Label, Reals]:
    """Return how many records have each bin of each feature, [F, B], by label."""
    features, most = len(seen.boosting.bins), seen.boosting.bins.most
    found: dict[Label, Reals] = defaultdict(lambda: np.zeros((features, most)))
    for record in records:
        found[label_of(seen, record)][np.arange(features), list(record[0])] += 1
    return dict(found)


def _adds(
    seen: Seen, place: int, own: Sequence[Found], roots: Sequence[int]
) -> tuple[list[Label], Reals]:
    """Return the labels of the participant's records, and what a record of each adds to a bin of
    the roots, [Y, roots, 2]."""
    of_label: dict[Label, list[Found]] = defaultdict(list)
    for record in own:
        of_label[label_of(seen, record)].append(record)
    singles, adds = Singles(seen, place), []
    for records in of_label.values():
        sums = seen.replayed(singles.fold(records), roots)
        adds.append([one[place, 0, 0].sum(0) / len(records) for one in sums])
    return list(of_label), np.array(adds)

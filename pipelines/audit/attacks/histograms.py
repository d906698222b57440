"""Read records out of histograms, as a participant of a job of trees.

From the others' sums of g and h, by node, feature and bin (`tree_sums`), four facts give records:

    one record      sums tell whether a bin holds one record, and its label (`single_records`)
    one node        a record adds the same g and h to one bin of each feature, so a record that was
                    found in one feature is looked for in the bins of the others
    small sums      g of different records differ, once trees have given them different margins: a
                    bin with several holds the only small set of records with its sum
    peeling         a record that is known is subtracted from the sums of every round, because every
                    forest is known. What remains has fewer records

A record counts as found only if the forest gives it exactly the g and h that were read. Records
that no tree tells apart share g and h, and stay mixed up.

That sums of gradients by bin may reveal records is known (Cheng et al., "SecureBoost", IEEE
Intelligent Systems 2021); peeling is from erasure codes (Luby, Mitzenmacher, Shokrollahi and
Spielman, IEEE Trans. Inf. Theory 2001).

Legend: F features, B bins of each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.single_records import Found, Singles
from blindsum.pipelines.audit.attacks.tree_sums import Seen

Keys = npt.NDArray[np.int64]
SHIFT = 2**32
"""g and h as one integer, g SHIFT + h: sums of such integers stand for both sums."""

MOST = 200
"""Records of a node up to which its sums are taken apart."""

LARGEST = 4
"""Records of a bin up to which they are told apart."""

PASSES = 6


def read_records(seen: Seen) -> Counter[Found]:
    """Return the records that the sums reveal: the bins of all features, and the label."""
    found: Counter[Found] = Counter()
    several = seen.job.data.target is not None and len(seen.boosting.grown) > 1
    for output in range(len(seen.boosting.grown)):
        of_output = _of_output(seen, output)
        # A record that is not of this class is found with its own class.
        found += Counter({r: n for r, n in of_output.items() if not several or r[2] > 0})
    return found


def _of_output(seen: Seen, output: int) -> Counter[Found]:
    singles, every = Singles(seen, output), Counter[Found]()
    left = [sums[output] for sums in seen.sums]
    rounds = range(1, len(left) + 1)
    for _ in range(PASSES):
        new = Counter[Found]()
        for round, sums in zip(rounds, left, strict=True):
            for of_node in np.rint(sums[sums.any((1, 2, 3))]).astype(np.int64):
                new |= _of_node(seen, singles, output, round, of_node)
        every += new
        if not new or seen.job.training.sampling_rate < 1:  # a round may be without the record
            break
        known = seen.replayed(singles.fold(new.elements()), rounds)
        left = [sums - one[output] for sums, one in zip(left, known, strict=True)]
    return every


def _of_node(
    seen: Seen, singles: Singles, output: int, round: int, sums: npt.NDArray[np.int64]
) -> Counter[Found]:
    """Return the records of one node that can be told apart, from its sums int64 [F, B, 2]."""
    keys = sums[..., 0] * SHIFT + sums[..., 1]
    values = _values(keys, singles)
    places: dict[int, list[list[int]]] = defaultdict(list)
    if values:
        subsets = Subsets(values)
        for of_feature in keys:
            for value, bins in _assigned(of_feature, values, subsets).items():
                places[value].append(bins)
    found = Counter[Found]()
    for value, of_features in places.items():
        if len(of_features) == len(keys):
            for linked in _linked(of_features):
                if record := _checked(seen, singles, output, round, linked, value):
                    found[record] += 1
    return found


def _checked(
    seen: Seen, singles: Singles, output: int, round: int, bins: tuple[int, ...], value: int
) -> Found | None:
    """Return a record if the forest gives it the g and h that were read from a round."""

    def of(label: float) -> list[float]:
        record = singles.fold([(bins, singles.output, label)])
        (sums,) = seen.replayed(record, [round])
        g_h: list[float] = np.rint(sums[output][:, 0].sum((0, 1))).tolist()
        return g_h

    g, h = divmod(value, SHIFT)
    label = singles.label(g, of(0.0)[0] if singles.numeric else 0.0)
    return (bins, singles.output, label) if of(label) == [g, h] else None


def _values(keys: Keys, singles: Singles) -> Counter[int]:
    """Return g and h of all records of a node; nothing if some cannot be read.

    They are read from a bin that holds one record, and from bins that hold one more than known
    ones, if two features agree on it.
    """

    def alone(values: Keys) -> npt.NDArray[np.bool_]:
        return singles.there(*np.divmod(values, SHIFT))

    single, values = alone(keys), Counter[int]()
    for (_, value), times in _by_feature(np.nonzero(single)[0], keys[single]).items():
        values[value] = max(values[value], times)
    features, bins = np.nonzero(~single & (keys != 0))
    while 0 < values.total() <= MOST:
        rest = keys[features, bins, None] - np.array(list(values), np.int64)
        places, which = np.nonzero(alone(rest))
        seen_in = _by_feature(features[places], rest[places, which])
        agreed = Counter(value for _, value in seen_in if value not in values)
        new = [value for value, times in agreed.items() if times > 1]
        if not new:
            break
        values += Counter(new)
    # Bins do not show all records with the same g and h: the total of the node does. Without it a
    # bin of one of them would be taken for that of another.
    hidden = int(keys[0].sum()) - sum(value * n for value, n in values.items())
    if hidden and 0 < values.total() <= MOST:
        several = Counter({value: LARGEST for value in values})
        sets = Subsets(several)
        sizes = (sets.only(hidden, size, several) for size in range(1, LARGEST + 1))
        found = next((one for one in sizes if one), ())
        values, hidden = values + Counter(found), hidden - sum(found)
    return Counter() if hidden else values


def _by_feature(features: Keys, values: Keys) -> dict[tuple[int, int], int]:
    """Return how often each value is in each feature."""
    return Counter(zip(features.tolist(), values.tolist(), strict=True))


def _linked(of_features: list[list[int]]) -> list[tuple[int, ...]]:
    """Return the bins of all features of each record with one value, if they can be linked: where
    several records have the same value, they must have the same bin in all features but one."""
    several = [bins for bins in of_features if len(set(bins)) > 1]
    return [] if len(several) > 1 else list(zip(*of_features, strict=True))


def _assigned(of_feature: Keys, values: Counter[int], subsets: Subsets) -> dict[int, list[int]]:
    """Return the bins in which each value is, for the values whose bins are all known.

    Args:
        of_feature: the sums of the bins of one feature, [B].
    """
    left, rest = {int(b): int(of_feature[b]) for b in np.flatnonzero(of_feature)}, values.copy()
    found: dict[int, list[int]] = defaultdict(list)

    def put(bin: int, subset: Iterable[int]) -> None:
        for value in subset:
            found[value].append(bin)
            rest[value] -= 1
        del left[bin]

    for size in range(1, LARGEST + 1):
        for bin, total in list(left.items()):
            if subset := subsets.only(total, size, rest):
                put(bin, subset)
    if len(left) == 1:
        ((bin, total),) = left.items()
        if sum(value * n for value, n in rest.items()) == total:
            put(bin, list(rest.elements()))
    return {value: bins for value, bins in found.items() if len(bins) == values[value]}


class Subsets:
    """Small sets of values, by their sums."""

    def __init__(self, values: Counter[int]) -> None:
        self._each = np.sort(np.array(list(values.elements()), np.int64))
        first, second = np.triu_indices(len(self._each), 1)
        pairs = self._each[first] + self._each[second]
        order = np.argsort(pairs)
        self._first, self._second, self._pairs = first[order], second[order], pairs[order]

    def only(self, total: int, size: int, rest: Counter[int]) -> tuple[int, ...] | None:
        """Return the values of which `size` (at most LARGEST) add up to a total, if only one set of
        them does.

        Args:
            rest: the values that may be used, with how often.
        """
        if size == 1 or not len(self._pairs):
            return (total,) if size == 1 and rest[total] > 0 else None
        parts = {2: np.zeros(1, np.int64), 3: self._each, 4: self._pairs}[size]
        found = set()
        at = np.searchsorted(self._pairs, total - parts).clip(max=len(self._pairs) - 1)
        for part in np.flatnonzero(self._pairs[at] == total - parts):
            places = {int(self._first[at[part]]), int(self._second[at[part]])}
            if size == 3:
                places.add(int(part))
            elif size == 4:
                places |= {int(self._first[part]), int(self._second[part])}
            chosen = Counter(int(self._each[i]) for i in places)
            if len(places) == size and chosen <= rest:
                found.add(tuple(sorted(chosen.elements())))
        return found.pop() if len(found) == 1 else None

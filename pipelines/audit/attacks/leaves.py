"""Follow records through leaves, as a participant of a job of trees whose splits are public.

Sums of leaves hold no bins, but each tree says of every record on which side of some thresholds it
is. The first tree's sums give the number of records of each label in each leaf. From then on the
attacker holds groups: records with the same leaves so far and the same label, hence with known g
and h. The next tree's sums say how many of each group are in each leaf: the only set of records
with those sums, among those whose region meets the leaf's. After many trees, what is left of a
record is its label, and for each feature an interval of bins.

It ends at the first tree for which several sets fit. So it does early if leaves hold many records
of both labels: exchanging one of each label between two groups changes neither sum.

Legend: F features, L leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.histograms import SHIFT
from blindsum.pipelines.audit.attacks.single_records import Singles
from blindsum.pipelines.audit.attacks.tree_sums import Seen
from blindsum.platform.training.trees.forest import OneTree

Keys = npt.NDArray[np.int64]
MOST = 2**18
"""Sets of records that are tried against as many others, to find those that are in a leaf."""


@dataclass(frozen=True)
class Group:
    """`count` records with one label for one output, in the bins from `low` to `high`, [F]."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    output: int
    label: float
    count: int = 1

    def has(self, bins: Sequence[int]) -> bool:
        """Return whether a record with those bins, [F], may belong to it."""
        return all(a <= b <= c for a, b, c in zip(self.low, bins, self.high, strict=True))


def follow_records(seen: Seen) -> list[Group]:
    """Return the groups that the sums of leaves reveal, from as many trees as they can be followed
    through; none where labels are numbers."""
    found = list[Group]()
    several = seen.job.data.target is not None and len(seen.boosting.grown) > 1
    for output in range(len(seen.boosting.grown)):
        groups = _of_output(seen, output)
        found += [one for one in groups if not several or one.label > 0]
    return found


def _of_output(seen: Seen, output: int) -> list[Group]:
    singles = Singles(seen, output)
    if singles.numeric:
        return []
    groups = list[Group]()
    for round, sums in enumerate(seen.sums, start=1):
        of_leaves = np.rint(sums[output]).astype(np.int64)
        begun = seen.boosting.begun(seen.forests[round - 1], round)
        tree = seen.boosting.trees(begun).one(round - 1, seen.boosting.grown[output])
        regions = _regions(seen, tree)
        if round == 1:
            groups = _first(seen, singles, output, of_leaves, regions)
            continue
        keys = [_key(seen, singles, output, round, one) for one in groups]
        following = _Tree(groups, keys, of_leaves, regions).divided()
        if following is None:
            break
        groups = following
    return groups


def _regions(seen: Seen, tree: OneTree) -> list[Group]:
    """Return the bins of each leaf of a tree."""
    bins = seen.boosting.bins
    after = bins.after(tree.feature, tree.threshold)
    whole = Group((0,) * len(bins), tuple(len(one) for one in bins.edges), 0, 0.0)
    nodes = [whole]
    for node in range(len(tree.feature)):
        of, feature, last = nodes[node], int(tree.feature[node]), int(after[node])
        low, high = list(of.low), list(of.high)
        high[feature], low[feature] = min(high[feature], last), max(low[feature], last + 1)
        nodes += [replace(of, high=tuple(high)), replace(of, low=tuple(low))]
    return nodes[len(tree.feature) :]


def _met(group: Group, region: Group) -> Group | None:
    """Return the part of a group in a region, or None if they do not meet."""
    low, high = np.maximum(group.low, region.low), np.minimum(group.high, region.high)
    return replace(group, low=tuple(low), high=tuple(high)) if (low <= high).all() else None


def _key(seen: Seen, singles: Singles, output: int, round: int, group: Group) -> int:
    """Return g and h of a record of a group."""
    record = (tuple(map(int, group.low)), group.output, group.label)
    (sums,) = seen.replayed(singles.fold([record]), [round])
    g, h = np.rint(sums[output].sum(0)).astype(np.int64).tolist()
    return int(g * SHIFT + h)


def _first(
    seen: Seen, singles: Singles, output: int, sums: Keys, regions: list[Group]
) -> list[Group]:
    """Return the groups of the first tree, from its leaves' sums int64 [leaves, 2]."""
    kinds = [replace(regions[0], output=singles.output, label=label) for label in (0.0, 1.0)]
    each = [divmod(_key(seen, singles, output, 1, one), SHIFT) for one in kinds]
    groups = list[Group]()
    for of_leaf, region in zip(sums, regions, strict=True):
        counts = np.linalg.solve(np.array(each, np.float64).T, of_leaf.astype(np.float64))
        if (np.abs(counts - np.rint(counts)) > 1e-3).any() or (counts < -0.5).any():
            return []
        for kind, count in zip(kinds, np.rint(counts).astype(int).tolist(), strict=True):
            if count:
                groups.append(replace(kind, low=region.low, high=region.high, count=count))
    return groups


class _Tree:
    """One more tree, whose leaves are to be divided among the groups.

    Args:
        sums: of its leaves, int64 [L, 2].
        keys: g and h of a record of each group.
        regions: of its leaves.
    """

    def __init__(
        self, groups: list[Group], keys: list[int], sums: Keys, regions: list[Group]
    ) -> None:
        self._keys, self._rest = keys, [one.count for one in groups]
        self._parts = [[_met(group, region) for region in regions] for group in groups]
        self._left = dict(enumerate((sums[:, 0] * SHIFT + sums[:, 1]).tolist()))
        self._found: Counter[tuple[int, int]] = Counter()

    def divided(self) -> list[Group] | None:
        """Return the parts of groups in leaves; None if several sets of records fit."""
        for group, parts in enumerate(self._parts):
            places = [leaf for leaf, part in enumerate(parts) if part]
            if len(places) == 1:
                self._put(group, places[0], self._rest[group])
        open_leaves = [leaf for leaf, total in self._left.items() if total]
        while open_leaves:
            closed = [leaf for leaf in open_leaves if self._close(leaf, len(open_leaves) == 1)]
            if not closed:
                return None
            open_leaves = [leaf for leaf in open_leaves if leaf not in closed]
        if any(self._rest) or any(self._left.values()):
            return None
        return [
            replace(part, count=count)
            for (group, leaf), count in self._found.items()
            if (part := self._parts[group][leaf])
        ]

    def _put(self, group: int, leaf: int, count: int) -> None:
        self._found[group, leaf] += count
        self._rest[group] -= count
        self._left[leaf] -= self._keys[group] * count

    def _close(self, leaf: int, last: bool) -> bool:
        """Give a leaf its records, if only one set fits: all that are left, if it is the last."""
        may = [i for i, parts in enumerate(self._parts) if parts[leaf] and self._rest[i]]
        counts = [self._rest[i] for i in may]
        if not last:
            found = _only([self._keys[i] for i in may], counts, self._left[leaf])
            if found is None:
                return False
            counts = found
        for group, count in zip(may, counts, strict=True):
            if count:
                self._put(group, leaf, count)
        return True


def _only(keys: list[int], counts: list[int], total: int) -> list[int] | None:
    """Return how many of each group add up to a total, if only one set does. Sets are found as two
    halves, each of some of the groups.

    Args:
        counts: how many of each group there are.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    sizes = [1, 1]
    for i in sorted(range(len(keys)), key=lambda i: -counts[i]):
        smaller = int(sizes[1] < sizes[0])
        halves[smaller].append(i)
        sizes[smaller] *= counts[i] + 1
    if max(sizes) > MOST:
        return None
    sums = []
    for half in halves:
        of_half = np.zeros(1, np.int64)
        for i in half:
            of_half = (of_half[:, None] + keys[i] * np.arange(counts[i] + 1)).ravel()
        sums.append(of_half)
    order = np.argsort(sums[1])
    ranked = sums[1][order]
    first, last = (np.searchsorted(ranked, total - sums[0], side=s) for s in ("left", "right"))
    if (last - first).sum() != 1:
        return None
    one = int((last - first).argmax())
    found = [0] * len(keys)
    for half, place in zip(halves, (one, int(order[first[one]])), strict=True):
        of_each = np.unravel_index(place, [counts[i] + 1 for i in half]) if half else ()
        for i, count in zip(half, of_each, strict=True):
            found[i] = int(count)
    return found

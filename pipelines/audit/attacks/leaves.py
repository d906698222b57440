"""Follow records through leaves, as a participant of a job of trees whose splits are public.

The sums of leaves hold no bins, but each tree says of every record on which side of some thresholds
it is. The first tree's sums give the number of records of each label in each leaf. From then on the
attacker holds groups: records with the same leaves so far and the same label, hence with known g and
h. The sums of the next tree's leaves say how many of each group are in which leaf: the only small
set of records with those sums, among those whose region meets the leaf's. What remains after many
trees is a label, and for each feature an interval of bins.

Legend: F features.
"""

from __future__ import annotations

from collections import Counter
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
        following = _next(seen, singles, output, round, groups, of_leaves, regions)
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
    whole = replace(regions[0], low=(0,) * len(regions[0].low), output=singles.output)
    kinds = [replace(whole, label=label) for label in (0.0, 1.0)]
    each = [divmod(_key(seen, singles, output, 1, one), SHIFT) for one in kinds]
    groups = list[Group]()
    for of_leaf, region in zip(sums, regions, strict=True):
        counts = np.linalg.solve(np.array(each, np.float64).T, of_leaf.astype(np.float64))
        if (np.abs(counts - np.rint(counts)) > 1e-3).any() or (counts < -0.5).any():
            return []
        for kind, count in zip(kinds, np.rint(counts).astype(int).tolist(), strict=True):
            if count:
                group = _met(replace(kind, low=region.low, high=region.high), region)
                groups.append(replace(group, count=count))
    return groups


def _next(
    seen: Seen,
    singles: Singles,
    output: int,
    round: int,
    groups: list[Group],
    sums: Keys,
    regions: list[Group],
) -> list[Group] | None:
    """Return the groups after one more tree; None if its sums cannot be taken apart."""
    keys = [_key(seen, singles, output, round, one) for one in groups]
    parts = [[_met(group, region) for region in regions] for group in groups]
    left = {leaf: int(g * SHIFT + h) for leaf, (g, h) in enumerate(sums.tolist())}
    rest, found = [one.count for one in groups], Counter[tuple[int, int]]()

    def put(group: int, leaf: int, count: int) -> None:
        found[group, leaf] += count
        rest[group] -= count
        left[leaf] -= keys[group] * count

    for group, of_group in enumerate(parts):
        places = [leaf for leaf, part in enumerate(of_group) if part]
        if len(places) == 1:
            put(group, places[0], rest[group])
    done = {leaf for leaf, total in left.items() if not total}
    progress = True
    while progress and len(done) < len(left):
        progress = False
        for leaf in sorted(set(left) - done, key=lambda leaf: left[leaf] % SHIFT):
            within = [i for i, of_group in enumerate(parts) if of_group[leaf] and rest[i]]
            if len(done) == len(left) - 1:
                chosen: Counter[int] | None = Counter({i: rest[i] for i in within})
                if sum(keys[i] * n for i, n in (chosen or {}).items()) != left[leaf]:
                    return None
            else:
                chosen = _only([keys[i] for i in within], [rest[i] for i in within], left[leaf])
                chosen = chosen and Counter({within[i]: n for i, n in chosen.items()})
            if chosen is None:
                continue
            for group, count in chosen.items():
                put(group, leaf, count)
            done.add(leaf)
            progress = True
    if len(done) < len(left) or any(rest):
        return None
    return [
        replace(part, count=count)
        for (group, leaf), count in found.items()
        if count and (part := parts[group][leaf])
    ]


def _only(keys: list[int], counts: list[int], total: int) -> Counter[int] | None:
    """Return how many of each group add up to a total, if there is only one such set. Sets are
    found as two halves, each of some of the groups."""
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
    found = Counter[int]()
    for half, place in zip(halves, (one, int(order[first[one]])), strict=True):
        of_each = np.unravel_index(place, [counts[i] + 1 for i in half]) if half else ()
        found |= Counter({i: int(n) for i, n in zip(half, of_each, strict=True)})
    return found

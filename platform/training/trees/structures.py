"""Trees whose splits are drawn from the job's seed: they read no record and cost no budget.

Under differential privacy a choice of splits spends most of the budget. Maddock, Cormode, Wang,
Maple and Jha (CCS 2022, "Federated boosted decision trees with differential privacy") compare: with
splits at random and all of the budget in the leaves, forests are better at small budgets. With one
feature a tree, in turn, the model is additive, as in explainable boosting (Nori, Caruana, Bu, Shen
and Kulkarni, ICML 2021).

To which side the gaps of a feature go is drawn too. A tree of one feature that may be missing gives
its gaps a leaf of their own, the last one, if it has more than two leaves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.trees.bins import Bins, Edges
from blindsum.platform.training.trees.forest import BEYOND, OneTree


def columns_of(section: Boosted, features: int, seed: int, tree: int) -> npt.NDArray[np.intp]:
    """Return the features that a tree may use, ascending: all, or the share of
    `colsample_bytree`."""
    if section.colsample_bytree == 1.0:
        return np.arange(features)
    few = max(1, round(section.colsample_bytree * features))
    random = seeded_generator(seed, "columns of a tree", tree)
    return np.sort(random.choice(features, few, replace=False))


def draw_splits(
    one: OneTree, bins: Bins, section: Boosted, seed: int, tree: int, output: int
) -> None:
    """Draw the splits of a tree, in place. They are public."""
    random = seeded_generator(seed, "splits of a tree", tree, output)
    columns = columns_of(section, len(bins), seed, tree)
    if bins.have_gaps:
        sides = seeded_generator(seed, "sides of gaps in a tree", tree, output)
        one.default_left[:] = sides.integers(0, 2, len(one.default_left))
    if section.split == "cyclic":
        feature, inner = int(columns[tree % len(columns)]), len(one.feature)
        one.feature[:] = feature
        if bins.have_gaps and bins.may_miss[feature] and inner > 1:
            drawn = _drawn(inner - 1, bins.edges[feature], random)
            one.threshold[:] = _balanced(np.append(drawn, BEYOND))
            one.default_left[:] = 0
        else:
            one.threshold[:] = _balanced(_drawn(inner, bins.edges[feature], random))
        return
    one.feature[:] = random.choice(columns, len(one.feature))
    one.threshold[:] = [random.choice(bins.edges[int(feature)]) for feature in one.feature]


def _drawn(count: int, edges: Edges, random: np.random.Generator) -> Edges:
    """Return thresholds, ascending: different ones as far as there are."""
    return np.sort(random.choice(edges, count, replace=count > len(edges)))


def _balanced(drawn: Edges) -> Edges:
    """Return ascending thresholds in the order of a tree's nodes in which every leaf can be
    reached."""
    inner = len(drawn)
    found = np.empty(inner, np.float32)

    def place(node: int, first: int, last: int) -> None:
        if node < inner:
            middle = (first + last) // 2
            found[node] = drawn[middle]
            place(2 * node + 1, first, middle)
            place(2 * node + 2, middle + 1, last)

    place(0, 0, inner)
    return found

"""Boosting as rounds: what a silo sums in one, and how the total moves the forest on.

With `split: best` a tree takes a round for each level, in which silos sum the histograms of the
level's nodes. With the splits that are public it takes one round, in which they sum leaves.

Under differential privacy a record adds, for each output, (g, w h) to one bin of each feature, or
to one leaf; w is HESSIAN_WEIGHT. All that it adds in a round is one vector, which is scaled down to
the clip norm in L2 like a gradient. So sampling, noise and accounting are those of DP-SGD
(`blindsum.platform.privacy.plan`). Without privacy, g and h are rounded to multiples of UNIT, and
sums are exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.records import Fold, dense
from blindsum.platform.data.table import SiloData
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan, noise_of_total
from blindsum.platform.training.clipping.clipped import STABLE
from blindsum.platform.training.sums import Reals, Summed, SumsTrainer, followed
from blindsum.platform.training.trees.bins import bins_of
from blindsum.platform.training.trees.forest import Forest, OneTree, Trees, load, vector_of
from blindsum.platform.training.trees.gradients import OfClasses, OfTasks
from blindsum.platform.training.trees.growing import Growth
from blindsum.platform.training.trees.histograms import by_bin, by_node
from blindsum.platform.training.trees.importance import LeafSums
from blindsum.platform.training.trees.structures import columns_of, draw_splits
from blindsum.platform.training.vector import Vector

HESSIAN_WEIGHT = 2.0
"""h of a logistic loss is at most a quarter of the greatest g; a larger weight spends more of the
clip norm on it."""

LAMBDA_OF_NOISE = 2.0
"""The default lambda, in deviations of the sums' noise: docs/measurements.md compares others."""

UNIT = 2.0**-20
"""To what g and h are rounded without privacy: sums of a million records are exact integers."""


class Boosting(Summed):
    """A job's boosting: how rounds make trees, the size of a round's sums, and the next forest.

    Of two classes, only the second has trees of its own: a margin m stands for outputs -m/2 and
    m/2, whose softmax is the logistic function of m.

    Args:
        noise: the deviation of the noise in a sum; by default that of all silos together.
    """

    def __init__(self, job: Job, section: Boosted, noise: float | None = None) -> None:
        self._job, self.section, self._noise = job, section, noise
        self.bins = bins_of(job.data.features, section.max_bin, section.edges)
        self.outputs = job.data.outputs
        self._two = job.data.target is not None and self.outputs == 2
        self.grown = range(1, 2) if self._two else range(self.outputs)

    def place(self, round: int) -> tuple[int, int]:
        """Return the tree of a round, from 0, and the level that it splits."""
        return divmod(round - 1, self.section.exchanges)

    def columns(self, tree: int) -> npt.NDArray[np.intp]:
        """Return the features that a tree may use."""
        return columns_of(self.section, len(self.bins), self._job.seed, tree)

    def shape(self, round: int) -> tuple[int, ...]:
        """Return the shape of a round's sums: of grown outputs, nodes, features and bins."""
        tree, level = self.place(round)
        if self.section.split == "best":
            columns = len(self.columns(tree))
            return len(self.grown), 2**level, columns, self.bins.most, 2
        return len(self.grown), 2**self.section.max_depth, 2

    def values(self, round: int) -> int:
        """Return the number of a round's sums."""
        return math.prod(self.shape(round))

    @property
    def different_rounds(self) -> int:
        """The rounds of a tree."""
        return self.section.exchanges

    def weights(self, round: int) -> Reals:
        """Return 1 for each g, HESSIAN_WEIGHT for each h."""
        return np.tile([1.0, HESSIAN_WEIGHT], self.values(round) // 2)

    def units(self, model: Vector, round: int) -> float:
        """Return UNIT."""
        return UNIT

    def trainer(
        self, data: SiloData, plan: PrivacyPlan | None, random: np.random.Generator
    ) -> TreeTrainer:
        """Return one silo's part, on its training records."""
        return TreeTrainer(self, self._job, data.train, plan, random)

    def trees(self, vector: Vector) -> Trees:
        """Return the arrays of a forest's vector."""
        return Trees.of(vector, self.section.trees, self.outputs, self.section.max_depth)

    def begun(self, vector: Vector, round: int) -> Vector:
        """Return a copy of the vector, with the splits of a round's tree if they are public."""
        found, (tree, _) = vector.copy(), self.place(round)
        if self.section.split != "best":
            trees = self.trees(found)
            for output in self.grown:
                one = trees.one(tree, output)
                draw_splits(one, self.bins, self.section, self._job.seed, tree, output)
        return found

    def moved_on(self, vector: Vector, sums: Reals, round: int) -> Vector:
        """Return the next forest from all silos' sums of g and h, [values]."""
        tree, level = self.place(round)
        found = self.begun(vector, round)
        trees = self.trees(found)
        for output, of_output in zip(self.grown, sums.reshape(self.shape(round)), strict=True):
            one = trees.one(tree, output)
            before = one.value.copy()
            if self.section.split == "best":
                self._growth.split_level(one, level, of_output, self.columns(tree))
            else:
                self._growth.fill(one, slice(None), of_output)
            if self._two:
                self._mirror(trees, tree, before != one.value)
        return found

    def _mirror(self, trees: Trees, tree: int, new: npt.NDArray[np.bool_]) -> None:
        first, second = trees.one(tree, 0), trees.one(tree, 1)
        second.value[new] /= 2
        first.feature[:], first.threshold[:] = second.feature, second.threshold
        first.default_left[:] = second.default_left
        first.value[:], first.cover[:] = -second.value, second.cover

    @property
    def unit(self) -> float:
        """What the margin of a grown output is, divided by the values of its trees."""
        return 2.0 if self._two else 1.0

    def leaf_sums(self, trees: Trees) -> LeafSums:
        """Return the sums of the leaves of all grown outputs' trees, one tree after the other, from
        their values and covers. With `reg_alpha`, g is not known."""
        rate, reg_lambda = self._growth.rate, self.reg_lambda
        outputs = list(self.grown)
        value, h, feature = (
            one[:, outputs].reshape(-1, one.shape[2]).astype(np.float64)
            for one in (trees.value, trees.cover, trees.feature)
        )
        return LeafSums(feature, -self.unit * value * (h + reg_lambda) / rate, h, reg_lambda)

    @cached_property
    def noise(self) -> float:
        """The deviation of the noise in a sum of g over all silos; 0 without noise."""
        return noise_of_total(self._job) if self._noise is None else self._noise

    @cached_property
    def reg_lambda(self) -> float:
        """The job's lambda; by default LAMBDA_OF_NOISE times the noise, at least XGBoost's 1. It is
        rounded, because silos' processors may compute their plans with other last bits."""
        if self.section.reg_lambda is not None:
            return self.section.reg_lambda
        return max(1.0, float(f"{LAMBDA_OF_NOISE * self.noise:.2g}"))

    @cached_property
    def _growth(self) -> Growth:
        rate = self._job.training.learning_rate
        return Growth(self.section, self.bins, rate, self.reg_lambda)

    def margins(self, outputs: Reals) -> Reals:
        """Return the margins of grown outputs, [B, grown], from a forest's outputs [B, K]."""
        return outputs[:, 1:] - outputs[:, :1] if self._two else outputs


@dataclass(frozen=True)
class _Standing:
    """At which nodes of a level all records stand, int16 [records], numbered from the root, and
    whether a node above was not split. It holds for all trees with the same splits `above`."""

    level: int
    above: bytes
    nodes: npt.NDArray[np.int16]
    stopped: npt.NDArray[np.bool_]


class TreeTrainer(SumsTrainer):
    """One silo's part of boosting.

    Args:
        data: its training records.
        plan: its privacy plan; None without.
        random: draws samples, and with a plan the noise that the silo adds alone.
    """

    def __init__(
        self,
        boosting: Boosting,
        job: Job,
        data: Fold,
        plan: PrivacyPlan | None,
        random: np.random.Generator,
    ) -> None:
        super().__init__(job, plan, random)
        self._boosting = boosting
        # Bins take a byte each: features are made dense batch by batch, and not kept. Those of a
        # feature lie side by side, as histograms read them.
        self._bins, read = np.empty((len(data), len(boosting.bins)), np.uint8, order="F"), 0
        for features, _ in data.batches():
            self._bins[read : read + len(features)] = boosting.bins.of(features.numpy())
            read += len(features)
        self._labels = dense(data.stored_labels)
        target = job.data.target
        self._derivatives = OfClasses(target) if target else OfTasks(job.data.tasks or {})
        self._outputs = np.zeros((len(data), boosting.outputs))
        self._counted: tuple[int, bytes] = 0, b""  # trees in `_outputs`, and their values
        self._standing: dict[int, _Standing] = {}  # by output, of its newest tree
        self._kept: tuple[object, tuple[Reals, Reals, float]] | None = None

    def sums(self, start: Vector, clip: float | None, round: int) -> tuple[Reals, float]:
        """Return the silo's sums for one round, from the forest before it."""
        boosting = self._boosting
        tree, level = boosting.place(round)
        trees = boosting.trees(boosting.begun(start, round))
        rows = self.sample(len(self._bins))
        g, h, unclipped = self._summands(tree, trees, rows, clip)
        sums = np.zeros(boosting.shape(round))
        for i, output in enumerate(boosting.grown):
            one, of_output = trees.one(tree, output), (g[:, i], h[:, i])
            if boosting.section.split == "best":
                nodes, bins = self._nodes(one, output, level, rows), self._bins_of(rows, tree)
                sums[i] = by_bin(bins, nodes, 2**level, *of_output, boosting.bins.most)
            else:
                nodes = self._nodes(one, output, boosting.section.max_depth, rows)
                sums[i] = by_node(nodes, sums.shape[1], *of_output)
        return sums.reshape(-1), unclipped

    def _summands(
        self, tree: int, trees: Trees, rows: npt.NDArray[np.intp], clip: float | None
    ) -> tuple[Reals, Reals, float]:
        """Return what records add to the sums, g and h, [rows, grown], and the records within the
        clip norm minus half of all. All levels of a tree add the same, unless they sample."""
        outputs, kept = self._before(tree, trees), self._kept
        key = (*self._counted, clip)
        if kept and kept[0] == key and len(kept[1][0]) == len(rows) == len(self._bins):
            return kept[1]
        margins = self._boosting.margins(outputs[rows])
        g, h = self._derivatives(margins, self._labels[rows])
        if clip is None:
            found = np.rint(g / UNIT), np.rint(h / UNIT), 0.0
        else:
            found = self._clipped(g, h, clip, tree)
        self._kept = (key, found) if self._boosting.section.exchanges > 1 else None
        return found

    def _bins_of(self, rows: npt.NDArray[np.intp], tree: int) -> npt.NDArray[np.uint8]:
        columns, found = self._boosting.columns(tree), self._bins.T
        found = found if len(columns) == len(found) else found[columns]
        return (found if len(rows) == len(self._bins) else found[:, rows]).T

    def _before(self, tree: int, trees: Trees) -> Reals:
        """Return the outputs of the trees before one, [records, K]. Those of earlier rounds are
        kept, unless the run went back to an earlier forest."""
        count, values = self._counted
        if count > tree or trees.value[:count].tobytes() != values:
            count, self._outputs = 0, np.zeros_like(self._outputs)
        every = np.arange(len(self._bins))
        for done, output in itertools.product(range(count, tree), range(trees.value.shape[1])):
            one = trees.one(done, output)
            nodes, _ = self._ends(one, output, self._boosting.section.max_depth, every)
            self._outputs[:, output] += one.value[nodes]
        self._counted = tree, trees.value[:tree].tobytes()
        return self._outputs

    def _clipped(self, g: Reals, h: Reals, clip: float, tree: int) -> tuple[Reals, Reals, float]:
        """Scale what each record adds in a round down to the clip norm. Returns g, w h, and the
        records within the clip norm minus half of all."""
        h = HESSIAN_WEIGHT * h
        best = self._boosting.section.split == "best"
        places = len(self._boosting.columns(tree)) if best else 1
        norms = np.sqrt(places * (g * g + h * h).sum(1))
        factors = np.minimum(1.0, clip / (norms + STABLE))[:, None]
        within = float((norms <= clip).sum() - len(norms) / 2)
        return np.nan_to_num(g * factors), np.nan_to_num(h * factors), within

    def _nodes(
        self, one: OneTree, output: int, deep: int, rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Return each record's node of a level, from 0; 2^deep for records that stopped above."""
        nodes, stopped = self._ends(one, output, deep, rows)
        found: npt.NDArray[np.intp] = np.where(stopped, 2**deep, nodes)
        return found

    def _ends(
        self, one: OneTree, output: int, deep: int, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the node of a level at which each record arrives, from 0, and whether a node above
        was not split: such records went left, to the leaf that has that node's value."""
        after = self._boosting.bins.after(one.feature, one.threshold)
        gaps = self._boosting.bins.have_gaps
        first, nodes, stopped = self._begun(one, output, deep, rows)
        for _ in range(first, deep):
            columns = one.feature[nodes].astype(np.intp)
            stopped |= columns < 0
            bins = self._bins[rows, np.maximum(columns, 0)]
            right = bins > after[nodes]
            if gaps:
                right &= (bins < self._boosting.bins.most - 1) | (one.default_left[nodes] == 0)
            nodes = 2 * nodes + 1 + (right & (columns >= 0))
        if len(rows) == len(self._bins):
            kept = nodes.astype(np.int16)
            self._standing[output] = _Standing(deep, one.above(deep), kept, stopped)
        return nodes - (2**deep - 1), stopped

    def _begun(
        self, one: OneTree, output: int, deep: int, rows: npt.NDArray[np.intp]
    ) -> tuple[int, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the level from which records descend to another, and where they stand: all of them
        where they arrived in an earlier round, otherwise at the root."""
        last = self._standing.get(output) if len(rows) == len(self._bins) else None
        if last and last.level <= deep and last.above == one.above(last.level):
            return last.level, last.nodes.astype(np.intp), last.stopped.copy()
        return 0, np.zeros(len(rows), np.intp), np.zeros(len(rows), np.bool_)


def grow(
    job: Job,
    model: Forest,
    trainer: TreeTrainer,
    boosting: Boosting,
    rounds: int,
    done: Callable[[], None],
    silos: int = 1,
) -> None:
    """Grow a forest on the records of one participant, which adds its noise itself, if any.

    Args:
        model: becomes the forest.
        done: called after each round.
        silos: how many such participants this one stands for.
    """
    forest = followed(boosting, job, trainer, vector_of(model), rounds, done, silos)
    load(model, boosting.trees(forest))

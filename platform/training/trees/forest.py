"""A forest as a model: all its trees in three arrays of fixed size, which silos have in common.

A tree is complete, of depth D. Its nodes are numbered level by level from the root, 0; the children
of node i are 2 i + 1 and 2 i + 2. A record goes right if its feature is at least the threshold, as
in XGBoost. A node that is not split has feature -1: records go left there, to the leaf that has the
node's value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.training.vector import Vector

NO_SPLIT = -1.0
_AT_A_TIME = 64
"""Trees whose nodes are looked up together: memory grows with them and with the records."""


@dataclass(frozen=True)
class Trees:
    """A forest's arrays, which are views of one vector.

    Legend: T trees for each of K outputs, I = 2^D - 1 inner nodes, L = 2^D leaves.

    Attributes:
        feature: float32 [T, K, I], the number of a column of features, or NO_SPLIT.
        threshold: float32 [T, K, I].
        value: float32 [T, K, L], what a leaf adds to an output.
        cover: float32 [T, K, L], the sum of h over the records of a leaf, for explanations.
    """

    feature: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]

    @classmethod
    def of(cls, vector: Vector, trees: int, outputs: int, depth: int) -> Trees:
        """Return the arrays in a vector, as `Forest`'s parameters lie in it."""
        inner, leaves = 2**depth - 1, 2**depth
        sizes = np.cumsum([trees * outputs * n for n in (inner, inner, leaves)])
        feature, threshold, value, cover = np.split(vector, sizes)
        shape = (trees, outputs)
        return cls(
            feature.reshape(*shape, inner),
            threshold.reshape(*shape, inner),
            value.reshape(*shape, leaves),
            cover.reshape(*shape, leaves),
        )

    def one(self, tree: int, output: int) -> OneTree:
        """Return the arrays of one tree, through which it can be changed."""
        arrays = (self.feature, self.threshold, self.value, self.cover)
        return OneTree(*(one[tree, output] for one in arrays))


@dataclass(frozen=True)
class OneTree:
    """The arrays of one tree, views of a forest's."""

    feature: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]

    def above(self, level: int) -> bytes:
        """Return all that decides at which node of a level a record arrives."""
        nodes = slice(2**level - 1)
        return self.feature[nodes].tobytes() + self.threshold[nodes].tobytes()


class Forest(nn.Module):
    """T trees of depth D for each of K outputs; an output is the sum of its trees' leaves."""

    def __init__(self, trees: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        inner, leaves = 2**depth - 1, 2**depth
        self.feature = nn.Parameter(torch.full((trees, outputs, inner), NO_SPLIT))
        self.threshold = nn.Parameter(torch.zeros(trees, outputs, inner))
        self.value = nn.Parameter(torch.zeros(trees, outputs, leaves))
        self.cover = nn.Parameter(torch.zeros(trees, outputs, leaves))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [B, K] of features [B, F]."""
        return self.of_trees(x, 0, len(self.value))

    def of_trees(self, x: Tensor, first: int, last: int) -> Tensor:
        """Return the sums of the leaves of some trees only, [B, K]."""
        total = x.new_zeros(len(x), self.value.shape[1])
        for start in range(first, last, _AT_A_TIME):
            total += self._sums(x, slice(start, min(start + _AT_A_TIME, last)))
        return total

    def _sums(self, x: Tensor, trees: slice) -> Tensor:
        nodes = torch.zeros(len(x), self.value[trees].numel() >> self.depth, dtype=torch.long)
        for _ in range(self.depth):
            nodes = self._next(x, nodes, self.feature[trees], self.threshold[trees])
        leaves = nodes - (2**self.depth - 1)
        value = self.value[trees]
        found = value.reshape(-1, 2**self.depth).gather(1, leaves.T).T
        return found.reshape(len(x), *value.shape[:2]).sum(1)

    @staticmethod
    def _next(x: Tensor, nodes: Tensor, feature: Tensor, threshold: Tensor) -> Tensor:
        """Return the nodes to which records go from those nodes, [B, trees]."""
        inner = feature.shape[-1]
        features = feature.reshape(-1, inner).gather(1, nodes.T).T.long()
        thresholds = threshold.reshape(-1, inner).gather(1, nodes.T).T
        values = x.gather(1, features.clamp(min=0))
        return 2 * nodes + 1 + ((features >= 0) & (values >= thresholds)).long()


def load(forest: Forest, trees: Trees) -> None:
    """Give a forest the arrays of trees."""
    with torch.no_grad():
        for name in ("feature", "threshold", "value", "cover"):
            getattr(forest, name).copy_(torch.from_numpy(getattr(trees, name)))


def vector_of(forest: Forest) -> Vector:
    """Return a copy of a forest's arrays, one after the other."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in forest.parameters()]).numpy().copy()


def leftmost_leaf(node: int, level: int, depth: int) -> int:
    """Return the leaf, from 0, to which records of an unsplit node of a level go."""
    for _ in range(depth - level):
        node = 2 * node + 1
    leaf: int = node - (2**depth - 1)
    return leaf

"""A forest as a model: all its trees in three arrays of fixed size, which silos have in common.

A tree is complete, of depth D. Its nodes are numbered level by level from the root, 0; the children
of node i are 2 i + 1 and 2 i + 2. A record goes right if its feature is at least the threshold, as
in XGBoost. A node that is not split has feature -1: records go left there, to the leaf that has the
node's value. If features may be missing, NaN, each node says to which side such records go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.training.vector import Vector

NO_SPLIT = -1.0
BEYOND = np.finfo(np.float32).max
"""The threshold of a split between a feature's values, which all go left, and its gaps."""
_AT_A_TIME = 64
"""Trees whose nodes are looked up together: memory grows with them and with the records."""


ARRAYS = ("feature", "threshold", "value", "cover", "default_left")
"""The arrays of trees, in the order in which they lie in a vector."""


@dataclass(frozen=True)
class Trees:
    """A forest's arrays, which are views of one vector.

    Legend: T trees for each of K outputs, I = 2^D - 1 inner nodes, L = 2^D leaves.

    Attributes:
        feature: float32 [T, K, I], the number of a column of features, or NO_SPLIT.
        threshold: float32 [T, K, I].
        value: float32 [T, K, L], what a leaf adds to an output.
        cover: float32 [T, K, L], the sum of h over the records of a leaf, for explanations.
        default_left: float32 [T, K, I], 1 where gaps go left and 0 where they go right; [T, K, 0]
            if no feature may be missing.
    """

    feature: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]
    default_left: npt.NDArray[np.float32]

    @classmethod
    def of(cls, vector: Vector, trees: int, outputs: int, depth: int) -> Trees:
        """Return the arrays in a vector, as `Forest`'s parameters lie in it."""
        inner, leaves = 2**depth - 1, 2**depth
        sizes = np.cumsum([trees * outputs * n for n in (inner, inner, leaves, leaves)])
        feature, threshold, value, cover, default_left = np.split(vector, sizes)
        shape = (trees, outputs)
        return cls(
            feature.reshape(*shape, inner),
            threshold.reshape(*shape, inner),
            value.reshape(*shape, leaves),
            cover.reshape(*shape, leaves),
            default_left.reshape(*shape, inner if default_left.size else 0),
        )

    def one(self, tree: int, output: int) -> OneTree:
        """Return the arrays of one tree, through which it can be changed."""
        return OneTree(*(getattr(self, name)[tree, output] for name in ARRAYS))


@dataclass(frozen=True)
class OneTree:
    """The arrays of one tree, views of a forest's."""

    feature: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    cover: npt.NDArray[np.float32]
    default_left: npt.NDArray[np.float32]

    def above(self, level: int) -> bytes:
        """Return all that decides at which node of a level a record arrives."""
        nodes = slice(2**level - 1)
        arrays = (self.feature, self.threshold, self.default_left)
        return b"".join(one[nodes].tobytes() for one in arrays)


class Forest(nn.Module):
    """T trees of depth D for each of K outputs; an output is the sum of its trees' leaves.

    Args:
        gaps: whether features may be missing, NaN.
    """

    def __init__(self, trees: int, outputs: int, depth: int, gaps: bool = False) -> None:
        super().__init__()
        self.depth = depth
        inner, leaves = 2**depth - 1, 2**depth
        self.feature = nn.Parameter(torch.full((trees, outputs, inner), NO_SPLIT))
        self.threshold = nn.Parameter(torch.zeros(trees, outputs, inner))
        self.value = nn.Parameter(torch.zeros(trees, outputs, leaves))
        self.cover = nn.Parameter(torch.zeros(trees, outputs, leaves))
        self.default_left: nn.Parameter | None = None
        if gaps:
            self.default_left = nn.Parameter(torch.zeros(trees, outputs, inner))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [B, K] of features [B, F]."""
        return self.of_trees(x, 0, len(self.value)).to(x.dtype)

    @property
    def deciding(self) -> list[Tensor]:
        """The arrays on which outputs depend: all but the covers."""
        return [one for name, one in self.named_parameters() if name != "cover"]

    @property
    def grown(self) -> int:
        """The number of trees up to the last one that adds something to an output."""
        there = torch.nonzero(self.value.detach().flatten(1).any(1))
        return int(there[-1]) + 1 if len(there) else 0

    def of_trees(self, x: Tensor, first: int, last: int) -> Tensor:
        """Return the sums of the leaves of some trees only, float64 [B, K]: sums of parts of a
        forest add up to that of all, whichever the parts."""
        total = x.new_zeros(len(x), self.value.shape[1], dtype=torch.float64)
        for start in range(first, last, _AT_A_TIME):
            total += self._sums(x, slice(start, min(start + _AT_A_TIME, last)))
        return total

    def _sums(self, x: Tensor, trees: slice) -> Tensor:
        nodes = torch.zeros(len(x), self.value[trees].numel() >> self.depth, dtype=torch.long)
        for _ in range(self.depth):
            nodes = self._next(x, nodes, trees)
        leaves = nodes - (2**self.depth - 1)
        value = self.value[trees]
        found = value.reshape(-1, 2**self.depth).gather(1, leaves.T).T
        return found.reshape(len(x), *value.shape[:2]).sum(1, dtype=torch.float64)

    def _next(self, x: Tensor, nodes: Tensor, trees: slice) -> Tensor:
        """Return the nodes to which records go from those nodes, [B, trees]."""

        def at(of_nodes: Tensor) -> Tensor:
            part = of_nodes[trees]
            return part.reshape(-1, part.shape[-1]).gather(1, nodes.T).T

        features = at(self.feature).long()
        values = x.gather(1, features.clamp(min=0))
        right = values >= at(self.threshold)
        if self.default_left is not None:
            right |= values.isnan() & (at(self.default_left) == 0)
        return 2 * nodes + 1 + ((features >= 0) & right).long()


def load(forest: Forest, trees: Trees) -> None:
    """Give a forest the arrays of trees."""
    with torch.no_grad():
        for name, parameter in forest.named_parameters():
            parameter.copy_(torch.from_numpy(getattr(trees, name)))


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

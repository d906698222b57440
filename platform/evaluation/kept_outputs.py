"""Held-out outputs that are kept from one evaluation to the next.

A forest grows tree by tree. If the trees of an earlier evaluation are unchanged, only the outputs
of newer ones are computed and added, so that a round does not evaluate a long forest anew. Other
models are evaluated whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from blindsum.platform.data.records import Fold
from blindsum.platform.training.trees.forest import Forest


class KeptOutputs:
    """A fold's outputs of a model that trains on. Private to the silo.

    The newest tree may still grow: its outputs are computed each time and are not kept.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._forget(0)

    def _forget(self, outputs: int) -> None:
        self._trees: list[Tensor] = []  # the arrays of the trees whose outputs are kept
        self._count = 0
        self._sums = torch.zeros(len(self._fold), outputs, dtype=torch.float64)

    def evaluated(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield outputs and labels, as `Fold.evaluated`."""
        if not isinstance(model, Forest):
            yield from self._fold.evaluated(model)
            return
        settled, outputs = max(model.grown - 1, 0), model.value.shape[1]
        first = self._count
        if first > settled or not self._starts(model):
            first = 0
        sums = self._sums if first else torch.zeros(len(self._fold), outputs, dtype=torch.float64)
        self._forget(outputs)  # until all batches have the new trees
        start = 0
        for features, labels in self._fold.batches():
            part = slice(start, start + len(labels))
            with torch.no_grad():
                sums[part] += model.of_trees(features, first, settled)
                newest = model.of_trees(features, settled, settled + 1)
            yield (sums[part] + newest).float(), labels
            start += len(labels)
        self._trees = [one.detach()[:settled].clone() for one in model.deciding]
        self._count, self._sums = settled, sums

    def _starts(self, model: Forest) -> bool:
        """Return whether a forest starts with the trees whose outputs are kept."""
        pairs = zip(self._trees, model.deciding, strict=False)
        return all(torch.equal(kept, one[: self._count]) for kept, one in pairs)

"""A fold of records: features and labels, read in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.data.compact import Compact
from blindsum.platform.data.device import device_of, on
from blindsum.platform.data.ragged import TaskLabels

Features = npt.NDArray[np.float32]
Stored = Features | Compact
Labels = npt.NDArray[Any]
StoredLabels = Labels | TaskLabels

MAX_BATCH_BYTES = 64 * 2**20
"""Most memory of the dense features and labels of a batch: 524 fingerprints of 32,000 bits, or
16,384 of 1,024."""


@dataclass(frozen=True)
class Fold:
    """A fold's features and labels. Private to the silo.

    Features are float32 [records, features], or compact. Labels are classes, int64 [records], or
    tasks, float32 [records, 2, tasks] (`blindsum.platform.data.labels`), dense or not. All may be
    mapped from a file.
    """

    stored: Stored
    stored_labels: StoredLabels

    def __len__(self) -> int:
        return len(self.stored_labels)

    def __repr__(self) -> str:
        return "Fold(private)"

    @property
    def width(self) -> int:
        """The number of features of one record."""
        return int(self.stored.shape[1])

    @cached_property
    def features(self) -> Features:
        """All features, dense, for small folds. Training and evaluation read `batches`."""
        return dense(self.stored)

    @cached_property
    def labels(self) -> Labels:
        """All labels, dense, for small folds."""
        return dense(self.stored_labels)

    @property
    def batch_size(self) -> int:
        """The number of records of a batch."""
        # A loss of many tasks has about eight numbers for each of them at a time.
        of_tasks = 8 * self.stored_labels.width if isinstance(self.stored_labels, TaskLabels) else 0
        return batch_size(self.stored, of_tasks)

    def alike(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return those records, ordered so that a batch has records of about the same size."""
        sizes = self.stored.sizes if isinstance(self.stored, Compact) else None
        return rows if sizes is None else rows[np.argsort(sizes[rows], kind="stable")]

    def batches(
        self, rows: npt.NDArray[np.int64] | None = None, size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield dense features and labels of those records (all, by default), in order. There is at
        least one batch, which may be empty.

        Args:
            size: most records of a batch; by default as many as MAX_BATCH_BYTES hold.
        """
        count, size = len(self) if rows is None else len(rows), size or self.batch_size
        for start in range(0, max(count, 1), size):
            part = slice(start, start + size) if rows is None else rows[start : start + size]
            features, labels = dense(self.stored[part]), dense(self.stored_labels[part])
            yield torch.from_numpy(features), torch.from_numpy(labels)

    def outputs(self, model: nn.Module) -> Tensor:
        """Return a model's outputs for every record, [records, outputs], without gradients."""
        return torch.cat([outputs for outputs, _ in self.evaluated(model)])

    def evaluated(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a model's outputs, without gradients, and the labels, batch by batch, on the
        processor wherever the model is."""
        model.eval()
        device = device_of(model)
        for features, labels in self.batches():
            with torch.no_grad(), on(device):
                outputs = model(features.to(device)).cpu()
            yield outputs, labels


def batch_size(stored: Stored, more: int = 0) -> int:
    """Return the number of records that a batch of features may have.

    Args:
        more: numbers of each record that memory must hold besides.
    """
    own = stored.values_at_work if isinstance(stored, Compact) else stored.shape[1]
    return max(1, MAX_BATCH_BYTES // (4 * max(own + more, 1)))


def dense(stored: Stored | StoredLabels) -> npt.NDArray[Any]:
    """Return features as float32 [records, features], or labels as a dense array."""
    return stored.dense() if isinstance(stored, Compact) else stored


def stacked(parts: Sequence[Stored]) -> Stored:
    """Concatenate the features of several parts, in the form in which they are kept."""
    first = parts[0]
    if isinstance(first, Compact):
        return first.with_more([part for part in parts[1:] if isinstance(part, Compact)])
    return np.concatenate([dense(part) for part in parts])


def joined(parts: Sequence[StoredLabels]) -> StoredLabels:
    """Concatenate the labels of several parts."""
    first = parts[0]
    if isinstance(first, TaskLabels):
        return first.with_more([part for part in parts[1:] if isinstance(part, TaskLabels)])
    return np.concatenate([dense(part) for part in parts])

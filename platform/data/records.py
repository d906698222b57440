"""A fold of records: dense or sparse features, read in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from blindsum.platform.data.labels import Labels

Features = npt.NDArray[np.float32]
Stored = Features | Any  # or a scipy.sparse.csr_array of float32

MAX_BATCH_BYTES = 64 * 2**20
"""Most memory of the dense features of a batch: 524 fingerprints of 32,000 bits, or 16,384 of
1,024."""


@dataclass(frozen=True)
class Fold:
    """A fold's features and labels. Private to the silo.

    Features are float32 [records, features], dense or as a CSR array. Labels are classes, int64
    [records], or tasks, float32 [records, 2, tasks] (`blindsum.platform.data.labels`).
    """

    stored: Stored
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

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

    def batches(self, rows: npt.NDArray[np.int64] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield dense features and labels of those records (all, by default), in order, in batches
        of at most MAX_BATCH_BYTES of features. There is at least one batch, which may be empty."""
        rows = np.arange(len(self)) if rows is None else rows
        size = max(1, MAX_BATCH_BYTES // (4 * max(self.width, 1)))
        for start in range(0, max(len(rows), 1), size):
            part = rows[start : start + size]
            yield torch.from_numpy(dense(self.stored[part])), torch.from_numpy(self.labels[part])

    def outputs(self, model: nn.Module) -> Tensor:
        """Return a model's outputs for every record, [records, outputs], without gradients."""
        model.eval()
        with torch.no_grad():
            return torch.cat([model(features) for features, _ in self.batches()])


def dense(stored: Stored) -> Features:
    """Return features as a dense array, float32 [records, features]."""
    found: Any = stored
    return found.toarray() if sparse.issparse(found) else found  # type: ignore[no-any-return]


def stacked(parts: Sequence[Stored]) -> Stored:
    """Concatenate the records of several parts; sparse parts stay sparse."""
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)


def bits(positions: Sequence[npt.NDArray[np.integer[Any]]], width: int) -> Stored:
    """Return records of 0 and 1 as a CSR array, from the positions that are 1."""
    found = np.concatenate([*positions, np.zeros(0, np.int64)])
    return bits_of(found, np.array([len(p) for p in positions], np.int64), width)


def bits_of(
    positions: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]], width: int
) -> Stored:
    """Return records of 0 and 1 as a CSR array.

    Args:
        positions: those that are 1, record after record.
        counts: the number of them in each record.
    """
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return sparse.csr_array(
        (np.ones(len(positions), np.float32), positions.astype(np.int64), ends),
        shape=(len(counts), width),
    )

"""Held-out accuracy and loss as integer sums, so that only the consortium's totals appear.

A silo's counts travel encrypted and are decrypted only as their sum. They are exact figures
of held-out records, not protected by differential privacy: outputs say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from blindsum.platform.data import Fold

LOSS_UNIT = 2.0**-10
"""One integer unit of a summed loss, in nats."""

MAX_LOSS = 32.0
"""A record's loss is cut here, in nats, so that sums stay bounded."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """Figures of the whole consortium for one round.

    `loss` is the mean cross-entropy in nats, `largest_class` the accuracy of always guessing
    the most frequent class, `saturated` the share of update values cut by the range, `large` of
    those beyond an eighth of it, `dropped` the molecules RDKit could not read.
    """

    records: int
    accuracy: float
    loss: float
    largest_class: float
    saturated: float
    large: float
    dropped: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class _Sums:
    correct: int
    loss: int
    saturated: int
    large: int
    dropped: int


FIXED_COUNTS = len(fields(_Sums))


def count(
    model: nn.Module, fold: Fold, classes: int, saturated: int, large: int, dropped: int
) -> Counts:
    """One silo's sums, int64 [FIXED_COUNTS + classes], non-negative. Private to the silo."""
    model.eval()
    labels = torch.from_numpy(fold.labels)
    with torch.no_grad():
        output = model(torch.from_numpy(fold.features))
        losses = functional.cross_entropy(output, labels, reduction="none").double()
    # A model that overflowed to NaN counts as wrong with the greatest loss.
    losses = losses.nan_to_num(MAX_LOSS, posinf=MAX_LOSS).clamp(0.0, MAX_LOSS)
    correct = int((output.argmax(dim=1) == labels).sum())
    sums = _Sums(correct, round(float(losses.sum()) / LOSS_UNIT), saturated, large, dropped)
    per_class = np.bincount(fold.labels, minlength=classes)
    return np.concatenate([list(asdict(sums).values()), per_class]).astype(np.int64)


def summarise(counts: Counts, update_values: int) -> Metrics:
    """The consortium's metrics from summed counts.

    Args:
        update_values: values in all silos' updates together, for the share that saturated.
    """
    sums = _Sums(*(int(n) for n in counts[:FIXED_COUNTS]))
    per_class = counts[FIXED_COUNTS:]
    records = max(int(per_class.sum()), 1)
    return Metrics(
        records=int(per_class.sum()),
        accuracy=sums.correct / records,
        loss=sums.loss * LOSS_UNIT / records,
        largest_class=int(per_class.max()) / records,
        saturated=sums.saturated / update_values,
        large=sums.large / update_values,
        dropped=sums.dropped,
    )

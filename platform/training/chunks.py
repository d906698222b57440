"""How many records of a sample are computed at a time.

A sample is summed in chunks, so that memory grows neither with the sampling rate nor with the
table. The size of a chunk follows from the model and the public contract alone: it changes sums
only by rounding, and tells nothing of the records.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blindsum.platform.data.records import MAX_BATCH_BYTES, Fold
from blindsum.platform.job.training_section import TrainingSection


def chunk_of(model: nn.Module, data: Fold, training: TrainingSection, copies: int = 1) -> int:
    """Return the job's number of records, or as many as need at most MAX_BATCH_BYTES for what
    their layers return, and no more than a batch of the fold has.

    Args:
        copies: of each record, which are computed with it.
    """
    if training.chunk:
        return training.chunk
    bytes_each = 4 * copies * _values_of_a_record(model, data.width)
    return max(1, min(data.batch_size // copies, MAX_BATCH_BYTES // bytes_each))


def _values_of_a_record(model: nn.Module, width: int) -> int:
    """Return the number of values of a record and of all that the model's layers make of it."""
    found, training = [width], model.training

    def note(layer: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output.numel())

    layers = [layer for layer in model.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            model.eval()(torch.ones(1, width))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(found)

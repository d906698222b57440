"""Models of records that are tensors by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsum.platform.job.tensors import Tensors, TensorSection
from blindsum.platform.training.sequences import whole_numbers


class NamedTensors(nn.Module):
    """A model that gets a dict of tensors, of records that come as float32 rows
    (`blindsum.platform.job.tensors.Tensors`).

    Args:
        model: gets float32 or int64 [records, *shape] by name, zero where a ragged record has
            ended; and bool `NAME_mask` [records, *ragged dimensions], true before that.
    """

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        super().__init__()
        self.model, self._tensors = model, tensors

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's outputs. Each record's tensors come from its own row. Values that are
        no such numbers, as made-up records have them, count as any."""
        found, start = dict[str, Tensor](), 0
        for name, one in self._tensors.of.items():
            values = x[:, start : start + one.values].reshape(-1, *one.shape)
            start += one.values
            if one.below is not None:
                values = whole_numbers(values, one.below)
            if one.ragged:
                mask = _mask(x[:, start : start + len(one.ragged)], one)
                start += len(one.ragged)
                found[f"{name}_mask"] = mask
                values = torch.where(_along(mask, one), values, torch.zeros_like(values))
            found[name] = values
        outputs: Tensor = self.model(found)
        return outputs


def _mask(sizes: Tensor, one: TensorSection) -> Tensor:
    """Return where records have values, bool [records, *ragged dimensions], from their sizes,
    float32 [records, ragged dimensions]."""
    ones = [1] * len(one.most)
    mask = torch.ones(len(sizes), *ones, dtype=torch.bool, device=sizes.device)
    for i, most in enumerate(one.most):
        size = whole_numbers(sizes[:, i], most + 1)
        there = torch.arange(most, device=sizes.device) < size[:, None]
        mask = mask & there.view(-1, *(most if k == i else 1 for k in range(len(one.most))))
    return mask


def _along(mask: Tensor, one: TensorSection) -> Tensor:
    """Return the mask with a dimension for each of the tensor's."""
    sizes = [size if k in one.ragged else 1 for k, size in enumerate(one.shape)]
    return mask.view(-1, *sizes)

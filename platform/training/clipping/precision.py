"""Forward and backward passes in bfloat16, whose 8 bits of precision halve what is moved.

Only layers compute in bfloat16, as torch's autocast chooses. Weights stay float32, and so does
everything on which privacy rests: what book-keeping noted is converted to float32, which is exact,
before norms, factors and sums are computed from it. So a record's norm is that of the gradient
which is added, however coarsely that gradient was computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from blindsum.platform.data.device import device_of
from blindsum.platform.errors import ModelError
from blindsum.platform.training.clipping.book import Parts
from blindsum.platform.training.clipping.parts import ConvolutionWeight, LinearWeight, Part, Scale


class InBfloat16(nn.Module):
    """A model whose layers compute in bfloat16. Outputs are float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Tensor:
        """Return the model's outputs, computed in bfloat16."""
        # Without a cache: clipping gives each operation a copy of its weight.
        kind = device_of(self.model).type
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            outputs: Tensor = self.model(x)
        return outputs.float()


def in_float32(parts: Parts) -> Parts:
    """Return parts and gradients as float32."""
    return {
        share: [(_in_float32(part), d.float()) for part, d in calls]
        for share, calls in parts.items()
    }


def _in_float32(part: Part) -> Part:
    if isinstance(part, LinearWeight | ConvolutionWeight | Scale):
        return replace(part, a=part.a.float())
    return part


def require_bfloat16(model: nn.Module, features: int) -> None:
    """Raise ModelError unless the model runs in bfloat16 on a record of that many ones."""
    try:
        with torch.no_grad():
            InBfloat16(model)(torch.ones(1, features))
    except Exception as error:  # noqa: BLE001 - of the user's code
        raise cannot(error) from None


def cannot(error: Exception) -> ModelError:
    """Return the error of a model that fails in bfloat16."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return ModelError(
        f"the model cannot be trained with training.precision bfloat16: {text}",
        "Leave training.precision out, or convert tensors in the model to the type of what they "
        "meet.",
    )

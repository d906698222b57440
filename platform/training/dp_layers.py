"""Layers that differential privacy cannot train, and what to use instead.

DP-SGD clips the gradient of each record, so a record may not change the gradients of others. That
is the only limit: whatever a layer computes from one record alone can be clipped
(`blindsum.platform.training.clipping.choice`).
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from blindsum.platform.errors import ModelError


def refuse_mixing_layers(model: nn.Module) -> None:
    """Check that no layer is a batch normalisation over the records of a batch.

    Raises:
        ModelError: names every such layer and what to use instead.
    """
    found = [
        f"'{name}' ({type(layer).__name__})"
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
    ]
    if found:
        raise ModelError(
            f"differential privacy cannot train layer{'s' if len(found) > 1 else ''} "
            f"{', '.join(found)}: it normalises over the records of a batch, so one record moves "
            "the others",
            "Replace it by torch.nn.GroupNorm or LayerNorm.",
        )

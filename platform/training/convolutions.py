"""A convolutional network for pictures, as a job's `cnn` describes it."""

from __future__ import annotations

import itertools
import math

from torch import nn

from blindsum.platform.job.model_section import Cnn, Shape


def convolutions(section: Cnn, shape: Shape, outputs: int) -> nn.Module:
    """Return the network of a job for pictures [B, channels * height * width]."""
    activation = nn.ReLU if section.activation == "relu" else nn.Tanh
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    size = min(shape[1:])
    for before, after in itertools.pairwise([shape[0], *section.channels]):
        # Groups of at most 16 channels: normalisation over records would mix them.
        groups = next(g for g in range(-(-after // 16), after + 1) if after % g == 0)
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(groups, after)]
        layers += [activation()]
        layers += [nn.AvgPool2d(2)] if size >= 2 else []
        size = max(1, size // 2)
    pooled = tuple(max(1, min(4, size >> len(section.channels))) for size in shape[1:])
    features = section.channels[-1] * math.prod(pooled)
    layers += [nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(features, outputs)]
    return nn.Sequential(*layers)

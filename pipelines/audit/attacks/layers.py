"""The layers of a model that reconstruction attacks use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Layers:
    """The layers that these attacks use.

    `first` is the first linear layer, None if the model does not begin with one that has a bias, or
    if not all of it is trained: what is frozen is in no update. `relu`: whether ReLU follows it;
    `last` is the last layer, None if it is not linear, or not trained; `adjoining`: whether these
    two are the model's only linear layers.
    """

    first: nn.Linear | None
    relu: bool
    last: nn.Linear | None
    adjoining: bool

    @classmethod
    def of(cls, model: nn.Module) -> Layers:
        """Find these layers in a model."""
        layers = [m for m in model.modules() if not list(m.children())]
        linear = [m for m in layers if isinstance(m, nn.Linear)]
        first = linear[0] if linear and layers[0] is linear[0] and _is_trained(linear[0]) else None
        relu = first is not None and len(layers) > 1 and isinstance(layers[1], nn.ReLU)
        last = linear[-1] if linear and layers[-1] is linear[-1] else None
        last = last if last is not None and _is_trained(last) else None
        return cls(first, relu, last, len(linear) == 2 and linear[-1] is last)


def _is_trained(layer: nn.Linear) -> bool:
    return layer.bias is not None and layer.bias.requires_grad and layer.weight.requires_grad


def impossible(layers: Layers, batch: int) -> str:
    """Return why the first layer does not reveal that many records, or ""."""
    if layers.first is None:
        return "the model does not begin with a linear layer with a bias, all of it trained"
    if batch > 1 and not layers.relu:
        return "the first layer is not followed by ReLU"
    if batch > min(layers.first.weight.shape):
        return "more records than the first layer has neurons or inputs"
    return ""

"""Low-rank adapters beside frozen layers, made by peft, and the plain model that they add up to.

A layer W x becomes W x + (alpha / rank) B A x (LoRA: Hu et al., ICLR 2022, section 4.1). B begins
at zero and A at random from the job's seed, so that all silos begin with the same model, and with
the one that the public weights make. Once trained, the change is added to W: the released model has
the layers of the job's model and needs no peft.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.lora_section import Lora
from blindsum.platform.training.optional_packages import needed
from blindsum.platform.training.torch_random import forked_random

_ADAPTED = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
_OF_GPT = "Conv1D"
"""GPT-2's linear layers, a class of transformers' own."""

_MOST_NAMED = 20
_WRONG = 1e-3
"""Most difference between a model with adapters and the plain one, in units of what adapters do."""


class OneLayer(nn.Sequential):
    """A model of one layer. peft replaces layers within a model, and never the model itself."""


def adapt(model: nn.Module, lora: Lora, head: Sequence[str]) -> nn.Module:
    """Add adapters to a model's layers, and take its other parameters out of training.

    Args:
        model: is changed. Parameters that are frozen stay so.
        head: the names of the modules that are trained whole unless the job says which.

    Raises:
        ModelError: peft is not installed, a name is that of no layer, a layer is named twice, or
            peft refuses one.
    """
    peft = needed("peft", "model.lora")
    root = model if any(True for _ in model.children()) else OneLayer(model)
    targets = _targets(root, lora.targets)
    saved = _saved(root, lora.modules_to_save, head, targets)
    whole = [p for m in saved for p in root.get_submodule(m).parameters() if p.requires_grad]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        # As one expression of whole names: of a list, peft takes ends of names too.
        target_modules="|".join(map(re.escape, targets)),
    )
    try:
        with warnings.catch_warnings():  # peft corrects its own setting for GPT-2's layers
            warnings.filterwarnings("ignore", ".*fan_in_fan_out", UserWarning)
            peft.inject_adapter_in_model(config, root)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"peft cannot adapt these layers: {error}") from None
    for p in whole:
        p.requires_grad_(True)
    for layer in _adapted(root).values():
        layer.register_forward_hook(_seen)
    return root


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which every adapter is added to its layer's weights."""
    plain = copy.deepcopy(model)
    for name, layer in _adapted(plain).items():
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(plain.get_submodule(parent), own, layer.get_base_layer())
    return plain[0] if isinstance(plain, OneLayer) else plain


def refuse_unused(model: nn.Module, made_up: Callable[[int], Tensor]) -> None:
    """Check that the model with its adapters computes what the plain model of it does.

    It does not if a layer's weights are read past the layer, as torch's attention reads those of
    its output projection. Its adapter would be trained for nothing, or released untried.

    Args:
        made_up: makes up records such as the model takes.

    Raises:
        ModelError: names the layers that were not called, if there are any.
    """
    tried, base = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    called = set[str]()
    with forked_random(0), torch.no_grad():
        for p, other in zip(tried.parameters(), base.parameters(), strict=True):
            # A head of zeros would hide all layers below it.
            p.add_(torch.randn_like(p), alpha=0.3 / math.sqrt(max(1, p.numel() // len(p))))
            other.copy_(p)
        for layer in _adapted(base).values():
            layer.enable_adapters(False)
        for name, layer in _adapted(tried).items():
            layer.register_forward_hook(lambda *_, name=name: called.add(name))
        x = made_up(3)
        found, plain, without = tried(x), merged(tried)(x), base(x)
    if unused := sorted(_adapted(tried).keys() - called):
        raise ModelError(
            f"model.lora.targets has {', '.join(unused[:_MOST_NAMED])}, which the model does not "
            "call: it reads the weights in another way",
            "Leave it out, or write the model so that it calls the layer.",
        )
    if float((found - plain).abs().max()) > _WRONG * float((plain - without).abs().max()) + 1e-6:
        raise ModelError(
            "the model with adapters is not the one with changed weights: a layer of "
            "model.lora.targets has its weights read in another way too",
            "Name fewer layers.",
        )


def head_of(model: nn.Module, outputs: int) -> list[str]:
    """Return the name of a model's last linear layer with that many outputs, if it has one."""
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == outputs and name
    ]
    return names[-1:]


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Return a model's layers with adapters, by name."""
    layers = needed("peft.tuners.tuners_utils", "model.lora")
    return {n: m for n, m in model.named_modules() if isinstance(m, layers.BaseTunerLayer)}


def _targets(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers that the patterns name."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _ADAPTED) or type(layer).__name__ == _OF_GPT
    }
    found = dict[str, None]()
    for pattern in patterns:
        named = [name for name in layers if _is_named(name, pattern)]
        if not named:
            raise _nothing("model.lora.targets", pattern, layers, "layer that can have an adapter")
        found |= dict.fromkeys(named)
    return [*found]


def _saved(
    model: nn.Module, patterns: Sequence[str] | None, head: Sequence[str], targets: Sequence[str]
) -> list[str]:
    """Return the names of the modules that are trained whole."""
    if patterns is None:
        return [name for name in head if not any(_within(target, name) for target in targets)]
    modules = [name for name, _ in model.named_modules() if name]
    found = dict[str, None]()
    for pattern in patterns:
        named = [name for name in modules if _is_named(name, pattern)]
        if not named:
            raise _nothing("model.lora.modules_to_save", pattern, modules, "module")
        found |= dict.fromkeys(named)
    twice = [target for target in targets if any(_within(target, name) for name in found)]
    if twice:
        raise ModelError(
            f"{twice[0]} is in model.lora.targets and in modules_to_save",
            "Name it in one of them: it has an adapter, or is trained whole.",
        )
    return [*found]


def _is_named(name: str, pattern: str) -> bool:
    """Return whether it is a module's name, the end of it as peft takes it, or a pattern of it."""
    return name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _nothing(
    setting: str, pattern: str, names: Sequence[str] | dict[str, Any], what: str
) -> ModelError:
    known = [*names]
    more = " and others" if len(known) > _MOST_NAMED else ""
    return ModelError(
        f"{setting} has {pattern!r}, which is the name of no {what}",
        f"They are: {', '.join(known[:_MOST_NAMED])}{more}.",
    )


def _seen(*_: object) -> None:
    """Do nothing. Of layers that are hooked, torch's encoders do not read the weights past them,
    as they do otherwise when a model predicts."""

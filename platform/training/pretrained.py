"""Public weights with which a model begins, and the parameters that stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.begun_section import Weights
from blindsum.platform.job.paths import WEIGHTS, home_folder, public_file

MOST_NAMED = 5


def begin_with(model: nn.Module, weights: Weights) -> None:
    """Load a job's public weights into its model.

    Raises:
        ModelError: the file is not there, or does not have exactly the chosen parameters in their
            shapes.
    """
    path = public_file(weights.file, weights.sha256)
    if path is None:
        raise ModelError(
            f"there is no file {weights.file} with the SHA-256 {weights.sha256[:16]}... of "
            "model.weights",
            f"Put it beside the job file, or in {home_folder() / WEIGHTS} on this machine.",
        )
    try:
        held = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise ModelError(f"{weights.file} is no safetensors file", "Write it anew.") from None
    own = model.state_dict()
    chosen = {n for n in own if weights.only is None or _matches(n, weights.only)}
    faults = [*_faults(held, own, chosen)]
    if faults:
        more = f", and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise ModelError(
            f"{weights.file} does not fit the model: {'; '.join(faults[:MOST_NAMED])}{more}",
            "Choose the parameters that it has with model.weights.only, or change the model.",
        )
    model.load_state_dict({name: held[name] for name in chosen}, strict=False)


def _faults(
    held: Mapping[str, Tensor], own: Mapping[str, Tensor], chosen: set[str]
) -> Iterator[str]:
    """Yield how a file's parameters differ from the chosen ones of the model."""
    for name in sorted(chosen - set(held)):
        yield f"it lacks {name}"
    for name in sorted(set(held) - chosen):
        yield f"{name} is {'left out by model.weights.only' if name in own else 'not in the model'}"
    for name in sorted(chosen & set(held)):
        if held[name].shape != own[name].shape:
            yield f"{name} has shape {tuple(held[name].shape)}, not {tuple(own[name].shape)}"
        elif not bool(torch.isfinite(held[name]).all()):
            yield f"{name} has values that are not finite"


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take parameters that match a pattern out of training.

    Raises:
        ModelError: a pattern matches none, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        found = [p for name, p in named.items() if fnmatchcase(name, pattern)]
        if not found:
            raise ModelError(
                f"model.freeze has {pattern!r}, which is the name of no parameter",
                f"They are: {', '.join([*named][:20])}{' and others' if len(named) > 20 else ''}.",
            )
        for p in found:
            p.requires_grad_(False)
    if patterns and not any(p.requires_grad for p in named.values()):
        raise ModelError(
            "model.freeze leaves nothing to train", "Leave out the patterns of the last layer."
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

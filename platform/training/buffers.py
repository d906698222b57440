"""Tensors of a model that are no parameters: constants, which are allowed, and running state.

Running state, as BatchNorm keeps, would differ between silos and is not protected: it never passes
the clipping of records. Constants, such as the numbers of a text's places, stay as they are.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.training.torch_random import forked_random

MEND = "Replace BatchNorm by GroupNorm or LayerNorm."


class Constants:
    """The buffers of a model, and a check that they stay as they were."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = {name: b.detach().clone() for name, b in model.named_buffers()}

    def require_unchanged(self) -> None:
        """Check that no buffer was changed, added or taken away since.

        Raises:
            ModelError: names the layer whose buffers differ.
        """
        now = dict(self._model.named_buffers())
        for name in sorted(self._before.keys() | now.keys()):
            a, b = self._before.get(name), now.get(name)
            if a is None or b is None or not _same(a, b):
                raise _running_state(self._model, name)


def refuse_running_state(model: nn.Module, made_up: Callable[[int], Tensor]) -> None:
    """Check that a model's buffers are constants: passes over made-up records, to train and to
    predict, leave every bit of them.

    Args:
        made_up: makes up records such as the model takes.

    Raises:
        ModelError: names a layer that keeps state, or the model fails.
    """
    if not any(True for _ in model.buffers()):
        return
    tried = copy.deepcopy(model)
    constants = Constants(tried)
    with forked_random(0):
        for mode, records in ((True, 3), (True, 2), (False, 2)):
            tried.train(mode)
            _pass(tried, made_up(records))
            constants.require_unchanged()


def _pass(model: nn.Module, records: Tensor) -> None:
    try:
        outputs = model(records)
        if outputs.requires_grad:
            outputs.sum().backward()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
        raise ModelError(
            f"the model fails on {len(records)} records: {type(error).__name__}: {error}"
        ) from None


def digest_with_buffers(model: nn.Module, of_parameters: str) -> str:
    """Return a digest that covers a model's buffers too; without any, that of its parameters."""
    buffers = dict(model.named_buffers())
    if not buffers:
        return of_parameters
    found = hashlib.sha256(of_parameters.encode())
    for name, b in buffers.items():
        found.update(f"\n{name} {b.dtype} {tuple(b.shape)} ".encode())
        found.update(_bytes(b))
    return found.hexdigest()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)


def _bytes(buffer: Tensor) -> bytes:
    """Return a buffer's bits: comparing values would find that NaN is not NaN."""
    return buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _running_state(model: nn.Module, buffer: str) -> ModelError:
    name, _, own = buffer.rpartition(".")
    kind = type(model.get_submodule(name)).__name__
    return ModelError(
        f"layer '{name}' ({kind}) keeps running state besides its parameters, in {own!r}; silos' "
        "models would differ, and the state is not protected",
        MEND,
    )

"""A second kind of device for torch, for machines without a GPU.

Its tensors hold a tensor of the processor, and an operation on tensors of both kinds fails, as it
does with a GPU. Importing this module registers the device with torch for the rest of the process.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

_NAME = "second_device"


class _Module(_DummyBackendModule):
    """What torch asks of a device by its name. Random numbers are the processor's."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


_setup_privateuseone_for_python_backend(rename=_NAME, backend_module=_Module())

DEVICE = torch.device(_NAME, 0)

_MOVES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")


class OnSecond(torch.Tensor):
    """A tensor on the second device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnSecond{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(op, *args, **(kwargs or {}))


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the tensors inside, unless some are not on this device."""
    name = op.overloadpacket._qualified_op_name
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    others = [t for t in tensors if not isinstance(t, OnSecond)]
    if name not in _MOVES and len(others) < len(tensors) and any(t.dim() for t in others):
        raise RuntimeError(f"{op}: tensors on two devices")
    leaves = bool(kwargs.get("device")) and torch.device(kwargs["device"]).type == "cpu"
    inner_args, inner_kwargs = pytree.tree_map(_inner, (args, kwargs))
    with _disable_current_modes():
        found = op(*inner_args, **inner_kwargs)
    if name == "aten::copy_":
        return args[0]
    if leaves:
        return found
    same = {id(t.inner): t for t in tensors if isinstance(t, OnSecond)}
    return pytree.tree_map(lambda x: same.get(id(x), None) if id(x) in same else _outer(x), found)


def _inner(x: Any) -> Any:
    if isinstance(x, OnSecond):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == _NAME else x


def _outer(x: Any) -> Any:
    return OnSecond(x) if isinstance(x, torch.Tensor) else x


_others = torch.library.Library("_", "IMPL")
_others.fallback(_run, "PrivateUse1")

# These have a general form that first makes an empty tensor, and then gives it its size.
_made = torch.library.Library("aten", "IMPL")
for _name in ("arange", "arange.start", "arange.start_step", "eye", "linspace"):
    _op, _, _kind = _name.partition(".")
    _packet = getattr(torch.ops.aten, _op)
    _one = getattr(_packet, _kind or "default")
    _made.impl(_name, lambda *a, _one=_one, **k: _run(_one, *a, **k), "PrivateUse1")

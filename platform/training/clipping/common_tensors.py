"""Book-keeping for parameters that stand for all records at once: learned positions, a class token,
a scale of channels, a temperature.

Such a parameter, or what was sliced or looked up from it, meets the records in an elementwise
operation that spreads it over them. There it is replaced by one row for each record: torch then
computes the gradient by each row, and the slices and look-ups are taken back record by record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from blindsum.platform.training.clipping.book import Book, Common, NotCovered, Rules, Source
from blindsum.platform.training.clipping.parts import EmbeddingWeight


@dataclass(frozen=True)
class _Itself:
    """The part of a parameter that is the leaf."""

    def formed(self, d: Tensor, where: slice) -> Tensor:
        return d[where]


@dataclass(frozen=True)
class _LookedUp:
    """The part of a table in rows that were looked up for all records. `index` is [...]."""

    index: Tensor
    entries: int
    padding: int

    def formed(self, d: Tensor, where: slice) -> Tensor:
        index = self.index.expand(len(d), *self.index.shape)
        return EmbeddingWeight(index, self.entries, self.padding).formed(d, where)


@dataclass(frozen=True)
class _Spread:
    """The part of a common tensor's parameter in the rows that it was spread over."""

    common: Common

    def formed(self, d: Tensor, where: slice) -> Tensor:
        common, d = self.common, d[where]
        d = d.reshape(len(d), *common.tensor.shape)
        if common.tensor is not common.leaf:
            (d,) = torch.autograd.grad(
                common.tensor, common.leaf, d, retain_graph=True, is_grads_batched=True
            )
        return common.part.formed(d, slice(None))


def looked_up(book: Book, source: Source, index: Tensor, padding: int) -> Tensor:
    """Return rows of a table that are the same for all records, and note them."""
    rows = functional.embedding(index, source.tensor.detach()).requires_grad_()
    part = _LookedUp(index, len(source.tensor), padding)
    return book.keep_common(Common(rows, rows, source, part))


def _common(book: Book, tensor: Any) -> Common | None:
    """Return what a parameter or a common tensor is as such; None for anything else."""
    source = book.source(tensor)
    if source is None:
        return book.common_of(tensor)
    leaf = tensor.detach().requires_grad_()
    return Common(leaf, leaf, source, _Itself())


def _derived(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule for an operation that moves or picks values of one tensor."""

    def rule(book: Book, tensor: Any, *args: Any, **kwargs: Any) -> Tensor:
        common = _common(book, tensor)
        result = None if common is None else func(common.tensor, *args, **kwargs)
        if common is None or not isinstance(result, Tensor) or book.used(args) is not None:
            used = cast(Source, book.used((tensor, *args)))
            raise NotCovered(used.parameter, f"is used by torch's {func.__name__} as an index")
        return book.keep_common(common._replace(tensor=result))

    return rule


def _expanded(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the rule for an operation that repeats a tensor, perhaps for every record."""

    def rule(book: Book, tensor: Any, *args: Any, **kwargs: Any) -> Tensor:
        common = _common(book, tensor)
        if common is None:  # the tensor whose shape is meant
            return func(tensor, *args, **kwargs)
        result = func(common.tensor, *args, **kwargs)
        own = tuple(common.tensor.shape)
        padded = (1,) * (result.dim() - len(own)) + own
        rows = len(result) == book.records and padded[0] == 1
        book.settle(common.source, "repeated", rows)
        if not rows:
            return book.keep_common(common._replace(tensor=result))
        return _spread(book, common, result.shape).expand(result.shape)

    return rule


def _spread(book: Book, common: Common, shape: torch.Size) -> Tensor:
    """Return a common tensor with one row for each record.

    Args:
        shape: [B, ...], where the other dimensions may be those of a tensor that it meets.
    """
    own = common.tensor.shape
    padded = (1,) * (len(shape) - len(own)) + tuple(own)
    rows = common.tensor.detach().reshape(padded).expand(shape[0], *padded[1:]).requires_grad_()
    book.note_common(rows, common, _Spread(common))
    return rows


def _elementwise(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return the rule for an operation that broadcasts its arguments."""

    def rule(book: Book, *args: Any, **kwargs: Any) -> Any:
        commons = [_common(book, one) for one in args]
        which = [i for i, common in enumerate(commons) if common is not None]
        used = cast(Source, book.used(args))
        tensors = [one for one in args if isinstance(one, Tensor)]
        if len(which) != 1 or kwargs:
            raise NotCovered(used.parameter, f"is used twice by torch's {func.__name__}")
        common = cast(Common, commons[which[0]])
        if len(tensors) == 1:  # times a number
            made = [common.tensor if i == which[0] else one for i, one in enumerate(args)]
            return book.keep_common(common._replace(tensor=func(*made)))
        shape = torch.broadcast_shapes(*(one.shape for one in tensors))  # type: ignore[no-untyped-call]
        own = common.tensor.shape
        others = [one.shape for one in tensors if one is not args[which[0]]]
        meets = any(len(s) == len(shape) and s[:1] == (book.records,) for s in others)
        if not meets or (len(own) == len(shape) and own[0] != 1):
            raise NotCovered(
                used.parameter, f"is used by torch's {func.__name__} with another tensor than rows"
            )
        rows = _spread(book, common, torch.Size([book.records, *shape[1:]]))
        return func(*(rows if i == which[0] else one for i, one in enumerate(args)))

    return rule


_DERIVED = (
    torch.Tensor.__getitem__,
    torch.Tensor.unsqueeze,
    torch.Tensor.squeeze,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.transpose,
    torch.Tensor.permute,
    torch.unsqueeze,
)
_ELEMENTWISE = (
    *(torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__iadd__, torch.add),
    *(torch.Tensor.sub, torch.Tensor.sub_, torch.Tensor.__isub__, torch.sub),
    *(torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__imul__, torch.mul),
    *(torch.Tensor.div, torch.Tensor.div_, torch.Tensor.__itruediv__, torch.div),
    torch.where,
)

COMMON_RULES: Rules = {
    **{func: _derived(func) for func in _DERIVED},
    **{func: _expanded(func) for func in (torch.Tensor.expand, torch.Tensor.expand_as)},
    **{func: _elementwise(func) for func in _ELEMENTWISE},
}

"""Rules of book-keeping: which part a parameter has in an operation of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from blindsum.platform.training.clipping.book import Book, NotCovered, Rules, Source
from blindsum.platform.training.clipping.common_tensors import COMMON_RULES, looked_up
from blindsum.platform.training.clipping.parts import (
    ConvolutionWeight,
    EmbeddingWeight,
    Geometry,
    LinearWeight,
    Scale,
    Shift,
)
from blindsum.platform.training.clipping.recurrent import RECURRENT_RULES


def _linear(book: Book, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output = functional.linear(input, cast(Tensor, book.copy(weight)), book.copy(bias))
    a = book.by_record(input.detach()) if book.has_rows(input) else input
    return book.note(output, input, (weight, LinearWeight(a)), (bias, Shift()))


def _layer_norm(
    book: Book,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = list(normalized_shape)
    normalised = partial(functional.layer_norm, normalized_shape=shape, eps=eps)
    output = functional.layer_norm(input, shape, book.copy(weight), book.copy(bias), eps)
    scale = Scale(input.detach(), normalised, len(shape))
    return book.note(output, input, (weight, scale), (bias, Shift(len(shape))))


def _rms_norm(
    book: Book,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    shape = list(normalized_shape)
    normalised = partial(functional.rms_norm, normalized_shape=shape, eps=eps)
    output = functional.rms_norm(input, shape, book.copy(weight), eps)
    return book.note(output, input, (weight, Scale(input.detach(), normalised, len(shape))))


def _group_norm(
    book: Book,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normalised = partial(functional.group_norm, num_groups=num_groups, eps=eps)
    output = functional.group_norm(input, num_groups, book.copy(weight), book.copy(bias), eps)
    scale = Scale(input.detach(), normalised, 1, channels=True)
    return book.note(output, input, (weight, scale), (bias, Shift(channels=True)))


def _instance_norm(
    book: Book,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None or not use_input_stats:
        used = cast(Source, book.used((weight, bias)))
        raise NotCovered(used.parameter, "is used with running statistics")
    normalised = partial(functional.instance_norm, eps=eps)
    output = functional.instance_norm(
        input, weight=book.copy(weight), bias=book.copy(bias), eps=eps
    )
    scale = Scale(input.detach(), normalised, 1, channels=True)
    return book.note(output, input, (weight, scale), (bias, Shift(channels=True)))


def _embedding(
    book: Book,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    source = cast(Source, book.source(weight))
    if max_norm is not None or scale_grad_by_freq:
        raise NotCovered(source.parameter, "is an embedding with max_norm or scale_grad_by_freq")
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    if not book.has_rows(input):
        return looked_up(book, source, input, padding)
    output = functional.embedding(input, cast(Tensor, book.copy(weight)))
    return book.note(output, input, (weight, EmbeddingWeight(input, len(weight), padding)))


def _embedding_bag(
    book: Book,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    *more: Any,
    **settings: Any,
) -> Tensor:
    source = cast(Source, book.used((weight, *more)))
    if input.dim() != 2 or mode == "max" or any(more) or any(settings.values()):
        raise NotCovered(source.parameter, "is an embedding bag with special settings")
    rows: Tensor = book.ruled(
        functional.embedding, input, weight, None, max_norm, norm_type, scale_grad_by_freq
    )
    return rows.sum(1) if mode == "sum" else rows.mean(1)


def _attention(book: Book, *args: Any, **kwargs: Any) -> Any:
    with book.with_tokens_first():
        return _MULTI_HEAD_ATTENTION(*args, **kwargs)


def _convolution(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        book: Book,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        kernel = weight.shape[2:]
        axes = len(kernel)
        if padding == "same":
            for axis, (size, step) in enumerate(zip(kernel, _each(dilation, axes), strict=True)):
                more = step * (size - 1)
                around = [0, 0] * (axes - 1 - axis) + [more // 2, more - more // 2]
                input = functional.pad(input, around)
        geometry = Geometry(
            _each(stride, axes),
            _each(0 if isinstance(padding, str) else padding, axes),
            _each(dilation, axes),
            groups,
        )
        output = func(
            input,
            book.copy(weight),
            book.copy(bias),
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            groups,
        )
        part = ConvolutionWeight(input.detach(), weight.shape, geometry)
        if input.dim() < weight.dim():
            input = input.unsqueeze(0)  # one row, and not one for each record
        return book.note(output, input, (weight, part), (bias, Shift(channels=True)))

    return rule


def _division(func: Callable[..., Sequence[Tensor]]) -> Callable[..., list[Tensor]]:
    def rule(book: Book, tensor: Tensor, sizes: Any, dim: int = 0) -> list[Tensor]:
        source = book.source(tensor)
        if source is None or dim:
            used = cast(Source, book.used((tensor,)))
            raise NotCovered(used.parameter, "is split along another dimension than its first")
        return book.divide(source, func(tensor.detach(), sizes))

    return rule


def _each(value: Any, axes: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * axes if len(found) == 1 else found


def _unguarded(function: Any) -> Callable[..., Any]:
    """Return a function of torch without its first step, which gives the call to the book again."""
    space = {**function.__globals__, "has_torch_function": lambda *_: False}
    return FunctionType(function.__code__, space, function.__name__, function.__defaults__)


_MULTI_HEAD_ATTENTION = _unguarded(functional.multi_head_attention_forward)

RULES: Rules = {
    functional.linear: _linear,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    functional.group_norm: _group_norm,
    functional.instance_norm: _instance_norm,
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    functional.multi_head_attention_forward: _attention,
    **{func: _convolution(func) for func in (torch.conv1d, torch.conv2d, torch.conv3d)},
    **{
        func: _division(func)
        for func in (torch.Tensor.split, torch.split, torch.Tensor.chunk, torch.chunk)
    },
    **COMMON_RULES,
    **RECURRENT_RULES,
}

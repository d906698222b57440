"""A parameter's part in one call of an operation, and the gradient of each record that follows.

Legend: B records, T positions (1 for plain inputs, pixels of a convolution, tokens), I and O the
inputs and outputs of a linear layer, G groups of a convolution. `a` is a call's input and `d` the
gradient of the loss by its output. A record's gradient of a linear layer's weight is the sum over
positions of d a^T.

Inside torch's multi-head attention, tokens come first and records second, and sometimes both are
one dimension; `records_first` turns such tensors round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_MANY_POSITIONS = 512
"""From so many positions on, torch's own gradient of a convolution's weight, one record at a time,
takes less time than the product of patches: half at 1,024."""


class Part(Protocol):
    """A parameter's part in one call."""

    def formed(self, d: Tensor, where: slice) -> Tensor:
        """Return the gradients of some records, [b, ...] with the parameter's shape.

        Args:
            d: the gradient by the call's output, for all records.
        """


class Matrix(Part, Protocol):
    """A weight whose call is a matrix product at every position."""

    @property
    def into(self) -> int:
        """I: the inputs of an output, in its group."""

    @property
    def groups(self) -> int:
        """G: 1, or the groups of a convolution."""

    def positions(self, d: Tensor, where: slice) -> tuple[Tensor, Tensor]:
        """Return a and d of some records in double precision, [b, G, T, I], [b, G, T, O / G]."""

    def some(self, which: Tensor) -> Matrix:
        """Return the part of some records: a mask, bool [B]."""

    def summed(self, d: Tensor) -> Tensor:
        """Return the sum of the gradients over records and positions, with the weight's shape."""

    def lengths(self, d: Tensor) -> Tensor:
        """Return the sum over positions of |a| |d|, [B]. The gradient's norm is at most that."""


def records_first(t: Tensor, records: int, tokens_first: bool) -> Tensor:
    """Return a tensor of a call as [B, ...]. It is a view."""
    if not tokens_first:
        return t
    return (t if t.dim() == 3 else t.view(-1, records, t.shape[-1])).transpose(0, 1)


@dataclass(frozen=True)
class LinearWeight:
    """The weight of a linear layer. `a` is [B, ..., I]."""

    a: Tensor

    @property
    def groups(self) -> int:
        return 1

    @property
    def into(self) -> int:
        return self.a.shape[-1]

    def positions(self, d: Tensor, where: slice) -> tuple[Tensor, Tensor]:
        a, d = tokens(self.a[where]), tokens(d[where])
        return a.double().unsqueeze(1), d.double().unsqueeze(1)

    def formed(self, d: Tensor, where: slice) -> Tensor:
        return torch.bmm(tokens(d[where]).transpose(1, 2), tokens(self.a[where]))

    def some(self, which: Tensor) -> LinearWeight:
        return LinearWeight(self.a[which])

    def summed(self, d: Tensor) -> Tensor:
        a = self.a
        if a.dim() == 3 and a.stride(0) < a.stride(1):  # tokens came first: no copy to flatten it
            a, d = a.transpose(0, 1), d.transpose(0, 1)
        total: Tensor = d.flatten(0, -2).T @ a.flatten(0, -2)
        return total

    def lengths(self, d: Tensor) -> Tensor:
        return (_norm(tokens(self.a), 2) * _norm(tokens(d), 2)).sum(1)


@dataclass(frozen=True)
class Geometry:
    """A convolution's settings, one number for each axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class ConvolutionWeight:
    """The weight of a convolution over one to three axes. `a` is [B, channels, ...].

    If records have copies (`blindsum.platform.training.clipping.copies`), `a` and `d` have them as
    their second dimension.
    """

    a: Tensor
    shape: torch.Size
    geometry: Geometry
    copies: int = 1

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def into(self) -> int:
        return self.shape[1:].numel()

    def positions(self, d: Tensor, where: slice) -> tuple[Tensor, Tensor]:
        a, d = self._rows(self.a[where].double()), self._rows(d[where].double())
        patches, outputs = self._of_records(self._patches(a)), self._of_records(self._outputs(d))
        return patches.transpose(2, 3), outputs.transpose(2, 3)

    def formed(self, d: Tensor, where: slice) -> Tensor:
        a, d = self.a[where], d[where]
        if self._rows(d)[0, 0].numel() >= _MANY_POSITIONS:
            each = [replace(self, a=a[i : i + 1]).summed(d[i : i + 1]) for i in range(len(a))]
            return torch.stack(each)
        patches = self._of_records(self._patches(self._rows(a)))
        outputs = self._of_records(self._outputs(self._rows(d)))
        found = torch.bmm(outputs.flatten(0, 1), patches.flatten(0, 1).transpose(1, 2))
        return found.view(len(outputs), *self.shape)

    def some(self, which: Tensor) -> ConvolutionWeight:
        return replace(self, a=self.a[which])

    def summed(self, d: Tensor) -> Tensor:
        total: Tensor
        _, total, _ = torch.ops.aten.convolution_backward(
            self._rows(d),
            self._rows(self.a),
            d.new_empty(self.shape),
            None,
            self.geometry.stride,
            self.geometry.padding,
            self.geometry.dilation,
            False,
            [0] * len(self.geometry.stride),
            self.groups,
            [False, True, False],
        )
        return total

    def lengths(self, d: Tensor) -> Tensor:
        squares = self._rows(self.a).square().sum(1, keepdim=True)
        ones = squares.new_ones(1, 1, *self.shape[2:])
        geometry = (self.geometry.stride, self.geometry.padding, self.geometry.dilation)
        add = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.shape) - 3]
        of_patches: Tensor = add(squares, ones, None, *geometry).clamp(min=0).sqrt()
        products = of_patches.flatten(1) * _norm(self._rows(d), 1).flatten(1)
        return products.view(len(self.a), -1).sum(1)

    def _rows(self, t: Tensor) -> Tensor:
        """Return an input or an output's gradient with one row for each copy."""
        return t if self.copies == 1 else t.flatten(0, 1)

    def _of_records(self, t: Tensor) -> Tensor:
        """Return [b K, G, ..., T] as [b, G, ..., K T]."""
        if self.copies == 1:
            return t
        return by_copy(t, self.copies).movedim(1, -2).flatten(-2)

    def _outputs(self, d: Tensor) -> Tensor:
        """Return an output's gradient as [b, G, O / G, T]."""
        return d.reshape(len(d), self.groups, self.shape[0] // self.groups, -1)

    def _patches(self, a: Tensor) -> Tensor:
        """Return the input of the equivalent linear layer, [b, G, I, T].

        Positions come last, as in the input: the copy then runs along its rows, which takes a third
        of the time.
        """
        geometry, kernel = self.geometry, self.shape[2:]
        if any(geometry.padding):
            a = functional.pad(a, [n for size in reversed(geometry.padding) for n in (size, size)])
        for axis, (size, stride, dilation) in enumerate(
            zip(kernel, geometry.stride, geometry.dilation, strict=True), 2
        ):
            a = a.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        axes = len(kernel)
        # [b, channels, *positions, *kernel] to [b, channels, *kernel, *positions]
        order = [0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes)]
        return a.permute(order).reshape(len(a), self.groups, self.into, -1)


@dataclass(frozen=True)
class EmbeddingWeight:
    """The table of an embedding. `index` is [B, ...]; the entry at `padding` learns nothing."""

    index: Tensor
    entries: int
    padding: int

    def rows(self, d: Tensor, where: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each record adds to each entry that it names.

        Returns:
            The records' positions in `where` [n], the entries [n], and the gradients [n, O].
        """
        index, width = self.index[where].flatten(1), d.shape[-1]
        records = torch.arange(len(index)).unsqueeze(1).expand_as(index)
        flat = (records * self.entries + index).flatten()
        d = d[where].reshape(-1, width)
        if self.padding >= 0:
            kept = index.flatten() != self.padding
            flat, d = flat[kept], d[kept]
        named, inverse = torch.unique(flat, return_inverse=True)
        found = d.new_zeros(len(named), width).index_add_(0, inverse, d)
        return named // self.entries, named % self.entries, found

    def formed(self, d: Tensor, where: slice) -> Tensor:
        records, entries, found = self.rows(d, where)
        whole = d.new_zeros(len(d[where]), self.entries, d.shape[-1])
        whole[records, entries] = found
        return whole


@dataclass(frozen=True)
class Scale:
    """The weight of a normalisation: its output is the normalised input times the weight.

    `channels` says that the weight's one dimension is the input's second, as in GroupNorm. Else
    the weight has the input's last dimensions, as in LayerNorm and RMSNorm.
    """

    a: Tensor
    normalised: Callable[[Tensor], Tensor]
    dimensions: int
    channels: bool = False

    def formed(self, d: Tensor, where: slice) -> Tensor:
        return _over_positions(
            d[where] * self.normalised(self.a[where]), self.dimensions, self.channels
        )


@dataclass(frozen=True)
class Shift:
    """A bias: it is added at every position."""

    dimensions: int = 1
    channels: bool = False

    def formed(self, d: Tensor, where: slice) -> Tensor:
        return _over_positions(d[where], self.dimensions, self.channels)


def _over_positions(d: Tensor, dimensions: int, channels: bool) -> Tensor:
    if channels:
        return d.flatten(2).sum(2) if d.dim() > 2 else d
    positions = tuple(range(1, d.dim() - dimensions))
    return d.sum(positions) if positions else d


def _norm(t: Tensor, dimension: int) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(t, dim=dimension)
    return norms


def by_copy(t: Tensor, copies: int) -> Tensor:
    """Return [B K, ...] as [B, K, ...]."""
    return t.reshape(len(t) // copies, copies, *t.shape[1:])


def tokens(t: Tensor) -> Tensor:
    """Return [b, ..., I] as [b, T, I]."""
    return t.unsqueeze(1) if t.dim() == 2 else t.flatten(1, -2)

"""A parameter's share of each record's gradient norm, and of the clipped sum.

Four ways, of which the cheapest is taken: the norm of an outer product (one position), products
over pairs of positions (ghost clipping, Li et al., ICLR 2022), the entries that a record names
(embeddings), and the gradients themselves, some records at a time.

A record's clipped gradient may not be longer than the clip norm although sums over positions are
rounded, and their terms may cancel. So either the norm is that of the very numbers that are summed,
or it is raised by what rounding may have taken from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from blindsum.platform.training.clipping.clipped import Factors, add_weighted, norms_of
from blindsum.platform.training.clipping.parts import (
    ConvolutionWeight,
    EmbeddingWeight,
    LinearWeight,
    Matrix,
    Part,
    tokens,
)

Calls = Sequence[tuple[Part, Tensor]]
"""The calls in which one parameter has a part: the part, and d, [B, ...]."""

_FORMED_VALUES = 2**18
"""Most values of the gradients that are formed at a time: 1 MB, which stays in the cache."""

_KEPT_VALUES = 2**22
"""Most values of gradients that are kept for their sum, if activations need less than that."""

_RAISED_POSITIONS = 256
"""Most positions at which a norm is raised by rounding errors: at more, they would be large."""

_COST_OF_VALUE = 4
"""The time to write and read a value, in products."""


class Term(Protocol):
    """One parameter's part of the gradients."""

    def norms(self) -> Tensor:
        """Return the L2 norm of each record's gradient, [B]."""

    def clipped(self, factors: Factors) -> Tensor:
        """Return the sum of the records' gradients, each times its factor, in the parameter's
        shape."""


def term(calls: Calls, shape: torch.Size, mask: Tensor | None = None) -> Term:
    """Return the cheapest term for a parameter of that shape.

    Args:
        mask: the values whose gradients count, bool; all by default.
    """
    parts = [part for part, _ in calls]
    if mask is not None:
        return _masked(calls, shape, mask)
    tables = [part for part in parts if isinstance(part, EmbeddingWeight)]
    if len(tables) == len(parts) and len({table.padding for table in tables}) == 1:
        return _Entries(calls, shape)
    if all(isinstance(part, LinearWeight) for part in parts):
        return _of_matrix(*_as_one_call(calls), shape)
    if len(parts) == 1 and isinstance(parts[0], ConvolutionWeight):
        return _of_matrix(parts[0], calls[0][1], shape)
    size = shape.numel()
    return _Formed(calls, shape, size, size * _records(calls) <= _KEPT_VALUES)


def _as_one_call(calls: Calls) -> tuple[LinearWeight, Tensor]:
    """Return the calls of one linear layer as one: their positions follow each other."""
    linear = [(cast(LinearWeight, part), d) for part, d in calls]
    if len(linear) == 1:
        return linear[0]
    a, d = [tokens(part.a) for part, _ in linear], [tokens(d) for _, d in linear]
    return LinearWeight(torch.cat(a, 1)), torch.cat(d, 1)


def _of_matrix(part: Matrix, d: Tensor, shape: torch.Size) -> Term:
    if isinstance(part, LinearWeight) and part.a.dim() == 2:
        return _Outer(part, d)
    size, positions = shape.numel(), d[0].numel() // shape[0]
    read = positions * (shape[0] + part.groups * part.into)
    formed = _Formed([(part, d)], shape, max(size, positions * part.into), keep=size <= 2 * read)
    if formed.keep or positions > _RAISED_POSITIONS:
        return formed
    pairs = 2 * (positions + _COST_OF_VALUE) * read < (positions + _COST_OF_VALUE) * size
    norms = _Pairs(part, d, 2 * (read + positions**2)) if pairs else formed
    return _Raised(part, d, norms, positions)


def _masked(calls: Calls, shape: torch.Size, mask: Tensor) -> Term:
    part, d = calls[0]
    if len(calls) == 1 and isinstance(part, LinearWeight) and part.a.dim() == 2:
        return _MaskedOuter(part, d, mask)
    # A mask does not follow rows or positions, so nothing is cheaper than the gradients themselves.
    return _Formed(calls, shape, shape.numel(), keep=False, mask=mask)


class _Outer:
    """A weight used once, at one position: a record's gradient is d a^T, and |d a^T| = |d| |a|."""

    def __init__(self, part: LinearWeight, d: Tensor) -> None:
        self._part, self._d = part, d

    def norms(self) -> Tensor:
        return _norm(self._part.a).double() * _norm(self._d)

    def clipped(self, factors: Factors) -> Tensor:
        return _summed(self._part, self._d, factors)


class _MaskedOuter:
    """As `_Outer`, of which only the values count that a mask has: |d a^T|^2 is then the sum of
    d^2 a^2 over those, a matrix product. In double precision, so that rounding takes nothing."""

    def __init__(self, part: LinearWeight, d: Tensor, mask: Tensor) -> None:
        self._part, self._d, self._mask = part, d, mask

    def norms(self) -> Tensor:
        a, d = self._part.a.double().square(), self._d.double().square()
        squares = d.new_zeros(len(d))
        rows = max(1, _FORMED_VALUES // a.shape[1])
        for start in range(0, d.shape[1], rows):
            some = slice(start, start + rows)
            squares += ((a @ self._mask[some].double().T) * d[:, some]).sum(1)
        return squares.sqrt()

    def clipped(self, factors: Factors) -> Tensor:
        return _summed(self._part, self._d, factors).masked_fill_(~self._mask, 0.0)


class _Pairs:
    """Norms from pairs of positions: |sum d a^T|^2 is a sum of (a a')(d d').

    In double precision, because its terms may cancel: if float32 rounded a norm away, a record
    would pass unclipped.
    """

    def __init__(self, part: Matrix, d: Tensor, values: int) -> None:
        """`values` is the number of values that one record takes."""
        self._part, self._d, self._values = part, d, values

    def norms(self) -> Tensor:
        slices = _slices(self._d.shape[0], self._values)
        return torch.cat([self._norms(where) for where in slices])

    def _norms(self, where: slice) -> Tensor:
        a, d = self._part.positions(self._d, where)
        squared = ((a @ a.transpose(2, 3)) * (d @ d.transpose(2, 3))).sum((2, 3)).clamp(min=0)
        lengths = (_norm(a, -1) * _norm(d, -1)).sum(-1)  # [b, G]
        terms = a.shape[3] + d.shape[3] + a.shape[2] ** 2
        return (squared + terms * torch.finfo(torch.float64).eps * lengths.square()).sum(1).sqrt()


class _Raised:
    """A weight used at few positions, whose sum is one product over all records.

    Its norms come from elsewhere, and float32 may round a norm and a record's part of the sum by
    T eps / 2 times the sum of |a| |d|, both together by twice that.
    """

    def __init__(self, part: Matrix, d: Tensor, norms: _Pairs | _Formed, positions: int) -> None:
        self._part, self._d, self._norms = part, d, norms
        self._rounding = positions * torch.finfo(torch.float32).eps

    def norms(self) -> Tensor:
        return self._norms.norms() + self._rounding * self._part.lengths(self._d).double()

    def clipped(self, factors: Factors) -> Tensor:
        return _summed(self._part, self._d, factors)


class _Entries:
    """An embedding's table: a record's gradient is zero but for the entries that it names."""

    def __init__(self, calls: Calls, shape: torch.Size) -> None:
        tables = [cast(EmbeddingWeight, part) for part, _ in calls]
        index = torch.cat([table.index.flatten(1) for table in tables], 1)
        d = torch.cat([d.reshape(len(d), -1, d.shape[-1]) for _, d in calls], 1)
        whole = EmbeddingWeight(index, shape[0], tables[0].padding)
        self._shape, self._records = shape, len(d)
        self._owners, self._entries, self._rows = whole.rows(d, slice(None))

    def norms(self) -> Tensor:
        squares = _norm(self._rows).double().square()
        return squares.new_zeros(self._records).index_add_(0, self._owners, squares).sqrt()

    def clipped(self, factors: Factors) -> Tensor:
        each = factors.values.to(self._rows.dtype)[self._owners].unsqueeze(1)
        rows = self._rows * each
        if not factors.whole:
            rows = rows.masked_fill(each == 0, 0.0)
        return rows.new_zeros(self._shape).index_add_(0, self._entries, rows)


class _Formed:
    """Any parameter: its gradients are formed, some records at a time. Without `keep` they are
    formed a second time for the sum, by the same operations and so with the same bits."""

    def __init__(
        self,
        calls: Calls,
        shape: torch.Size,
        values: int,
        keep: bool,
        mask: Tensor | None = None,
    ) -> None:
        """`values` is the number of values that one record takes while it is formed. Gradients
        outside of the mask count as zero."""
        self.keep, self._mask = keep, mask
        self._calls, self._shape, self._values = calls, shape, values
        self._kept: list[tuple[slice, Tensor]] = []

    def norms(self) -> Tensor:
        norms = []
        for where, gradients in self._gradients():
            norms.append(norms_of(gradients.reshape(gradients.shape[0], -1)))
            if self.keep:
                self._kept.append((where, gradients))
        return norms[0] if len(norms) == 1 else torch.cat(norms)

    def clipped(self, factors: Factors) -> Tensor:
        total = torch.zeros(self._shape)
        for where, gradients in self._kept or self._gradients():
            add_weighted(total, factors, where, gradients)
        return total

    def _gradients(self) -> Iterator[tuple[slice, Tensor]]:
        for where in _slices(_records(self._calls), self._values):
            (part, d), *others = self._calls
            total = part.formed(d, where)
            for other, gradient in others:
                total = total + other.formed(gradient, where)
            yield where, total if self._mask is None else total.masked_fill(~self._mask, 0.0)


def _summed(part: Matrix, d: Tensor, factors: Factors) -> Tensor:
    scaled = d * factors.values.to(d.dtype).view((-1,) + (1,) * (d.dim() - 1))
    if factors.whole:
        return part.summed(scaled)
    kept = factors.values != 0  # zero times infinity is not zero
    return part.some(kept).summed(scaled[kept])


def _records(calls: Calls) -> int:
    return calls[0][1].shape[0]


def _slices(records: int, values: int) -> Iterator[slice]:
    size = max(1, min(_FORMED_VALUES // max(values, 1), records))
    for start in range(0, records, size):
        yield slice(start, start + size)


def _norm(rows: Tensor, dimension: int = 1) -> Tensor:
    """Return the L2 norms along a dimension."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=dimension)
    return norms

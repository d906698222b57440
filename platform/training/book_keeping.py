"""Sums of clipped per-record gradients, at nearly the cost of a plain step.

Book-keeping (Bu, Wang, Zha and Karypis, ICML 2023, "Differentially private optimization on
large model at small cost"): one forward pass keeps each layer's input a, one backward pass goes
only to the layers' outputs and computes d = dL/d(output). A record's gradient of a weight is the
sum over positions of d a^T. So its norm follows from a and d, and the clipped sum over the
records is one contraction of a and the clipped d. No gradient per record is ever stored.

Legend: B records, T positions (1 for plain inputs, pixels of a convolution, tokens), I and O a
layer's inputs and outputs. If a layer is called several times, the positions of its calls are
concatenated, which sums their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from blindsum.platform.errors import ModelError
from blindsum.platform.training.losses import RecordLoss, classification

_Convolution = (nn.Conv1d, nn.Conv2d)
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d
_RECORDS = 16  # the records whose patches are copied at a time
STABLE = 1e-6  # as in Opacus: a record's gradient is scaled by min(1, C / (norm + 1e-6))


class Clipped(NamedTuple):
    """Sums of clipped gradients, by parameter. `within` is the number of records not clipped."""

    sums: list[Tensor]
    within: int


def of_no_record(parameters: Sequence[Tensor]) -> Clipped:
    """Return the sums of an empty sample. The model is not called: not every layer takes it."""
    return Clipped([torch.zeros_like(p) for p in parameters], 0)


@dataclass
class _Calls:
    """One layer's calls in one pass: its inputs a [B, T, I], and edges to its outputs."""

    inputs: list[Tensor] = field(default_factory=list)
    edges: list[Any] = field(default_factory=list)


class BookKeeping:
    """Per-record clipping for models whose trainable parameters all belong to Linear and Conv."""

    def __init__(self, model: nn.Module, loss: RecordLoss = classification) -> None:
        self._model, self._loss = model, loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._names = {m: name for name, m in model.named_modules()}
        self._layers = list(_trainable_layers(model))
        self._calls: dict[_Layer, _Calls] = {}

    @staticmethod
    def covers(model: nn.Module) -> bool:
        """Return whether every trainable parameter belongs to one Linear or plain convolution."""
        owned = [p for m in _trainable_layers(model) for p in m.parameters(recurse=False)]
        named = list(model.named_parameters(remove_duplicate=False))
        return len({id(p) for p in owned}) == len(owned) and {id(p) for p in owned} >= {
            id(p) for _, p in named if p.requires_grad
        }

    def __call__(self, features: Tensor, labels: Tensor, clip_norm: float) -> Clipped:
        if not len(features):
            return of_no_record(self._parameters)
        self._calls = {layer: _Calls() for layer in self._layers}
        handles = [layer.register_forward_hook(self._keep) for layer in self._layers]
        try:
            loss = self._loss(self._model(features), labels).sum()
            edges = [edge for calls in self._calls.values() for edge in calls.edges]
            backward = iter(torch.autograd.grad(loss, edges))
            with torch.no_grad():
                return self._clip(backward, len(features), clip_norm)
        finally:
            for handle in handles:
                handle.remove()
            self._calls = {}

    def _keep(self, layer: _Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls = self._calls[layer]
        calls.inputs.append(inputs[0].detach())
        # The edge, not the tensor, because an activation may change the tensor in place.
        calls.edges.append(torch.autograd.graph.get_gradient_edge(output))

    def _clip(self, backward: Iterator[Tensor], records: int, clip_norm: float) -> Clipped:
        terms = []
        for layer, calls in self._calls.items():
            gradients = [next(backward) for _ in calls.edges]
            term = _term(layer, calls.inputs, gradients, records)
            if term is None:
                raise no_gradient(self._names[layer])
            terms.append(term)
        norms = _added(term.squared_norms() for term in terms).sqrt()
        # A record that overflows counts as zero: a run that ended in NaN because of one record
        # would reveal that the record is there.
        factors = (clip_norm / (norms + STABLE)).clamp(max=1.0).nan_to_num(0.0)
        whole = bool(torch.isfinite(norms).all())
        sums = {id(p): total for term in terms for p, total in term.sums(factors, whole)}
        return Clipped(
            [sums[id(p)].view_as(p) for p in self._parameters], int((norms <= clip_norm).sum())
        )


class _Term(Protocol):
    """One layer's part of the gradients."""

    def squared_norms(self) -> Tensor:
        """Return the squared L2 norm of each record's gradient of the layer's parameters, [B]."""

    def sums(self, factors: Tensor, whole: bool) -> list[tuple[nn.Parameter, Tensor]]:
        """Return sums over the records, each times its factor. `whole`: no record overflowed."""


class _Factored:
    """A layer's part as a [B, T, I] and d [B, T, O], or with two dimensions if T = 1. The gradient
    is not formed.

    Sums over positions are in double precision: their terms may cancel, and if float32 rounded a
    norm away, a record would pass unclipped.
    """

    def __init__(self, layer: _Layer, inputs: list[Tensor], gradients: list[Tensor]) -> None:
        self._layer = layer
        self._a = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        self._d = gradients[0] if len(gradients) == 1 else torch.cat(gradients, dim=1)
        if self._d.dim() == 3:
            self._a, self._d = self._a.double(), self._d.double()

    def squared_norms(self) -> Tensor:
        a, d = self._a, self._d
        total = torch.zeros(len(d), dtype=d.dtype)
        weight, bias = _trained(self._layer)
        if weight is not None and d.dim() == 2:
            total += (_norm(a) * _norm(d)).square()  # |d a^T| = |d| |a|
        elif weight is not None:
            gram = torch.bmm(a, a.transpose(1, 2)) * torch.bmm(d, d.transpose(1, 2))
            total += gram.sum((1, 2)).clamp(min=0)
            # Add what double precision may have rounded away, so that no norm is underestimated.
            terms = a.shape[2] + d.shape[2] + d.shape[1] ** 2
            lengths = (a.norm(dim=2) * d.norm(dim=2)).sum(1)
            total += terms * torch.finfo(torch.float64).eps * lengths.square()
        if bias is not None:
            total += _norm(d if d.dim() == 2 else d.sum(1)).square()
        return total

    def sums(self, factors: Tensor, whole: bool) -> list[tuple[nn.Parameter, Tensor]]:
        shape = (-1,) + (1,) * (self._d.dim() - 1)
        a, d = self._a, self._d * factors.view(shape).to(self._d.dtype)
        if not whole:  # zero times infinity is not zero
            bad = (factors == 0).view(shape)
            a, d = a.masked_fill(bad, 0.0), d.masked_fill(bad, 0.0)
        weight, bias = _trained(self._layer)
        found = []
        if weight is not None:
            found.append((weight, (d.flatten(0, -2).T @ a.flatten(0, -2)).to(weight.dtype)))
        if bias is not None:
            found.append((bias, d.flatten(0, -2).sum(0).to(bias.dtype)))
        return found


class _Formed:
    """A layer's part as gradients by record, [B, O, I], if these need no more memory than a and
    d."""

    def __init__(self, layer: _Layer, inputs: list[Tensor], gradients: list[Tensor]) -> None:
        self._layer = layer
        weight, bias = _trained(layer)
        self._parts: list[tuple[nn.Parameter, Tensor]] = []
        if weight is not None:
            calls = zip(inputs, gradients, strict=True)
            self._parts.append((weight, _added(_products(layer, a, d) for a, d in calls)))
        if bias is not None:
            self._parts.append((bias, _added(_positions(layer, d).sum(1) for d in gradients)))

    def squared_norms(self) -> Tensor:
        return _added(_norm(part.flatten(1)).square() for _, part in self._parts)

    def sums(self, factors: Tensor, whole: bool) -> list[tuple[nn.Parameter, Tensor]]:
        found = []
        for p, part in self._parts:
            flat = part.flatten(1)
            flat = flat if whole else flat.masked_fill((factors == 0)[:, None], 0.0)
            found.append((p, factors.to(flat.dtype) @ flat))
        return found


def _term(
    layer: _Layer, inputs: list[Tensor], gradients: list[Tensor], records: int
) -> _Term | None:
    """Return the layer's part, or None if its calls do not have one row for each record."""
    rows = {len(t) if t.dim() > 1 else -1 for t in (*inputs, *gradients)}
    if rows != {records}:
        return None
    if all(a.dim() == 2 for a in inputs) and len(inputs) == 1:
        return _Factored(layer, inputs, gradients)
    out, positions = len(layer.weight), sum(_positions(layer, d[:1]).shape[1] for d in gradients)
    into = layer.weight[0].numel()
    if out * into <= 2 * positions * (out + into):
        return _Formed(layer, inputs, gradients)
    return _Factored(
        layer, [_patches(layer, a) for a in inputs], [_positions(layer, d) for d in gradients]
    )


def _products(layer: _Layer, a: Tensor, d: Tensor) -> Tensor:
    """Return the sum over positions of d a^T, [B, O, I]. A few records at a time fit in the
    cache."""
    formed = a.new_empty(len(a), len(layer.weight), layer.weight[0].numel())
    for start in range(0, len(a), _RECORDS):
        rows = slice(start, start + _RECORDS)
        patches = _patches(layer, a[rows])
        torch.bmm(_positions(layer, d[rows]).transpose(1, 2), patches, out=formed[rows])
    return formed


def _norm(rows: Tensor) -> Tensor:
    """Return the L2 norm of each row, [B]."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def _added(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _trained(layer: _Layer) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Return the layer's weight and bias, each None if it is missing or frozen."""
    weight, bias = layer.weight, layer.bias
    return (
        weight if isinstance(weight, nn.Parameter) and weight.requires_grad else None,
        bias if isinstance(bias, nn.Parameter) and bias.requires_grad else None,
    )


def _positions(layer: _Layer, d: Tensor) -> Tensor:
    """Return the gradient of a layer's output as [B, T, O]."""
    if isinstance(layer, _Convolution):
        return d.flatten(2).transpose(1, 2)
    return d.unsqueeze(1) if d.dim() == 2 else d.flatten(1, -2)


def _patches(layer: _Layer, a: Tensor) -> Tensor:
    """Return a layer's input as [B, T, I]. A convolution's is that of the equivalent Linear.

    One strided copy takes half the time of `functional.unfold`.
    """
    if not isinstance(layer, _Convolution):
        return a.unsqueeze(1) if a.dim() == 2 else a.flatten(1, -2)
    sizes = cast(tuple[int, ...], layer.padding)
    if any(sizes):
        a = functional.pad(a, [size for size in reversed(sizes) for _ in ("before", "after")])
    axes = len(layer.kernel_size)
    for axis, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):
        a = a.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # [B, C, *positions, *kernel] to [B, *positions, C, *kernel]
    order = [0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes)]
    positions = a.shape[2 : 2 + axes].numel()
    return a.permute(order).reshape(len(a), positions, layer.weight[0].numel())


def _trainable_layers(model: nn.Module) -> Iterator[_Layer]:
    for layer in model.modules():
        if not any(p.requires_grad for p in layer.parameters(recurse=False)):
            continue
        # The exact types only: subclasses may compute something else.
        if type(layer) in (nn.Linear, *_Convolution) and _is_plain(layer):
            yield cast(_Layer, layer)


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, _Convolution):
        return True
    return (
        layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


def no_gradient(name: str) -> ModelError:
    """Return the error for a parameter whose gradients cannot be clipped record by record."""
    return ModelError(
        f"parameter '{name.removeprefix('_module.')}' has no gradient per record: clipping it "
        "would bound nothing",
        "Keep records in the first dimension of every layer's input, use every parameter, and "
        "use it only through its layer.",
    )

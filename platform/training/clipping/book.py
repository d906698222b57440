"""The book: what a forward pass does with a model's trainable parameters.

It is kept on operations and not on layers, so a weight may be tied to another, belong to a layer
that is called twice, or be used past its layer, as torch's multi-head attention does. No use can
escape it: every operation with a rule (`blindsum.platform.training.clipping.rules`) gets a copy of
the parameter, so if the loss still depends on the parameter itself, an operation was not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from blindsum.platform.training.clipping.parts import Part, records_first


class NotCovered(Exception):
    """A parameter is used in a way that has no rule.

    Attributes:
        parameter: the parameter.
        why: what is done with it, to follow its name.
    """

    def __init__(self, parameter: Tensor, why: str) -> None:
        super().__init__(why)
        self.parameter, self.why = parameter, why


class Ambiguous(Exception):
    """The batch has as many records as a tensor that is the same for all records has rows."""


class Share(NamedTuple):
    """Rows of a parameter's first dimension: all of them, or those of a split. `parameter` is its
    place in the list."""

    parameter: int
    start: int
    stop: int


class Source(NamedTuple):
    """A tensor that stands for a share of a parameter."""

    tensor: Tensor
    parameter: nn.Parameter
    share: Share


class Common(NamedTuple):
    """A tensor that was computed from a parameter alone, and so is the same for all records.

    Attributes:
        leaf: what it was computed from, by operations that torch can take back: a copy of the
            parameter, or rows that were looked up in it.
        part: turns gradients by the leaf, one for each record, into those by the parameter.
    """

    tensor: Tensor
    leaf: Tensor
    source: Source
    part: Part


@dataclass(frozen=True)
class _Call:
    """One operation that used parameters. `version` is that of its input `a` at that time."""

    edge: Any
    parts: list[tuple[Source, Part]]
    a: Tensor
    version: int
    tokens_first: bool


_DIFFERENTIATES = (torch.autograd.grad, torch.Tensor.backward)

Parts = dict[Share, list[tuple[Part, Tensor]]]
"""Every share's parts in calls, each with d, the gradient of the loss by the call's output,
[B, ...]."""

Rules = Mapping[Any, Callable[..., Any]]
"""By operation of torch, a function that is called with the book and the operation's arguments. It
runs the operation on copies, notes it, and returns its result."""


class Book(TorchFunctionMode):
    """Notes, while it is entered, every operation that uses one of the parameters.

    Args:
        records: B, the number of records in the batch.
        settled: by parameter, how it was used in an earlier pass.

    Raises, while it is entered:
        NotCovered: an operation has no rule, or its input does not have one row for each record.
        Ambiguous: a parameter now seems to be used otherwise than in that earlier pass.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        records: int,
        rules: Rules,
        settled: Mapping[tuple[int, str], bool],
    ) -> None:
        super().__init__()
        self.records, self.settled = records, dict(settled)
        self._rules, self._tokens_first = rules, False
        self._calls: list[_Call] = []
        # The tensors are kept, because an id belongs to its tensor only while that lives.
        self._sources = {
            id(p): Source(p, p, Share(i, 0, p.shape[0] if p.dim() else 1))
            for i, p in enumerate(parameters)
        }
        self._commons: dict[int, Common] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, by its rule if it uses a parameter."""
        named = kwargs or {}
        if func in _DIFFERENTIATES:
            # What it returns depends on copies of parameters otherwise than through noted outputs.
            first = next(iter(self._sources.values()))
            raise NotCovered(first.parameter, "is differentiated within the forward pass")
        used = self.used((*args, *named.values()))
        if used is None or not torch.is_grad_enabled():
            return func(*args, **named)
        rule = self._rules.get(func)
        if rule is not None:
            return rule(self, *args, **named)
        result = func(*args, **named)
        if any(isinstance(one, Tensor) and one.requires_grad for one in pytree.tree_leaves(result)):
            name = str(getattr(func, "__name__", func)).strip("_")
            raise NotCovered(used.parameter, f"is used by torch's {name}")
        return result  # a shape, or a copy without gradient

    def ruled(self, func: Any, *args: Any) -> Any:
        """Run an operation by its rule, inside another's."""
        return self._rules[func](self, *args)

    @contextmanager
    def with_tokens_first(self) -> Iterator[None]:
        """Read operations of the block as those of torch's attention: tokens first, then
        records."""
        self._tokens_first = True
        try:
            with self:
                yield
        finally:
            self._tokens_first = False

    def source(self, tensor: Any) -> Source | None:
        """Return the source that a tensor is."""
        return self._sources.get(id(tensor))

    def common_of(self, tensor: Any) -> Common | None:
        """Return the common tensor that a tensor is."""
        return self._commons.get(id(tensor))

    def copy(self, weight: Tensor | None) -> Tensor | None:
        """Return a copy of a source, for one operation; anything else as it is."""
        if weight is None or id(weight) not in self._sources:
            return weight
        return weight.detach().requires_grad_()

    def divide(self, source: Source, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Note pieces that follow each other in the source's first dimension; returns copies."""
        found, start = [], source.share.start
        for piece in pieces:
            share = Share(source.share.parameter, start, start + len(piece))
            found.append(piece.detach().requires_grad_())
            self._sources[id(found[-1])] = Source(found[-1], source.parameter, share)
            start = share.stop
        return found

    def keep_common(self, common: Common) -> Tensor:
        """Note a common tensor, and return it."""
        self._commons[id(common.tensor)] = common
        return common.tensor

    def note_common(self, rows: Tensor, common: Common, part: Part) -> None:
        """Note that a common tensor was spread over the records, as `rows` [B, ...]."""
        self.settle(common.source, "common", True)
        edge = torch.autograd.graph.get_gradient_edge(rows)
        self._calls.append(_Call(edge, [(common.source, part)], rows, rows._version, False))

    def note(self, output: Tensor, a: Tensor, *parts: tuple[Tensor | None, Part]) -> Tensor:
        """Note an operation whose input `a` and output have one row for each record; returns the
        output."""
        known = [(self._sources[id(w)], part) for w, part in parts if id(w) in self._sources]
        fixed = self.used((a,))
        if fixed is not None:
            raise NotCovered(fixed.parameter, "is used as a layer's input")
        if not known:
            return output
        if not self.has_rows(a) or not self.has_rows(output) or output.dim() < 2:
            raise NotCovered(
                known[0][0].parameter, "has an input whose first dimension is not the records"
            )
        for source, _ in known:
            self.settle(source, "common", False)
        # The edge, not the tensor, because an activation may change the tensor in place.
        edge = torch.autograd.graph.get_gradient_edge(output)
        self._calls.append(_Call(edge, known, a.detach(), a._version, self._tokens_first))
        return output

    def has_rows(self, t: Tensor) -> bool:
        """Return whether the tensor may have one row for each record."""
        if not self._tokens_first:
            return t.dim() > 0 and t.shape[0] == self.records
        return t.shape[1] == self.records if t.dim() == 3 else t.shape[0] % self.records == 0

    def by_record(self, t: Tensor) -> Tensor:
        """Return a tensor that has such rows as [B, ...]."""
        return records_first(t, self.records, self._tokens_first)

    def parts(self, loss: Tensor) -> Parts:
        """Return every part, with the gradient of the loss.

        Raises:
            NotCovered: the loss depends on a parameter through an operation that was not seen, an
                input was changed after its use, or a parameter was split in two ways.
        """
        found: Parts = defaultdict(list)
        if not loss.requires_grad:
            return found
        edges, originals = [call.edge for call in self._calls], list(self._originals())
        wanted = [*edges, *(tensor for tensor, _ in originals)]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        for (_, source), unseen in zip(originals, gradients[len(edges) :], strict=True):
            if unseen is not None:
                raise NotCovered(source.parameter, "is used where torch does not show it")
        owners: dict[Share, nn.Parameter] = {}
        for call, d in zip(self._calls, gradients, strict=False):
            for source, part in call.parts:
                if call.a._version != call.version:
                    raise NotCovered(source.parameter, "has an input that is changed after its use")
                if d is not None:
                    owners[source.share] = source.parameter
                    d_of = records_first(d, self.records, call.tokens_first)
                    found[source.share].append((part, d_of))
        for one, following in pairwise(sorted(owners)):
            if one.parameter == following.parameter and following.start < one.stop:
                raise NotCovered(owners[one], "is split in two ways")  # their norms do not add up
        return found

    def _originals(self) -> Iterator[tuple[Tensor, Source]]:
        """Yield tensors on which no loss may depend but through a noted operation."""
        for source in self._sources.values():
            yield source.tensor, source
        for common in self._commons.values():
            yield common.leaf, common.source

    def used(self, arguments: Sequence[Any]) -> Source | None:
        """Return the source of the first argument of an operation that stands for a parameter."""
        for one in arguments:
            for tensor in one if type(one) in (list, tuple) else (one,):
                if id(tensor) in self._sources:
                    return self._sources[id(tensor)]
                if id(tensor) in self._commons:
                    return self._commons[id(tensor)].source
        return None

    def settle(self, source: Source, what: str, found: bool) -> None:
        """Note how a parameter is used, where only the number of its rows tells.

        In a batch of 64 records, a table of 64 positions seems to have a row for each record. With
        one record that makes no difference.

        Args:
            what: `common`, for all records at once, or `repeated`, once for each of them.
        """
        if self.records > 1:
            key = (source.share.parameter, what)
            if self.settled.setdefault(key, found) != found:
                raise Ambiguous

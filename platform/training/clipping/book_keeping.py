"""Sums of clipped per-record gradients, at nearly the cost of a plain step.

Book-keeping (Bu, Wang, Zha and Karypis, ICML 2023, "Differentially private optimization on
large model at small cost"): one forward pass notes the input of every operation that uses a
trainable parameter (`blindsum.platform.training.clipping.book`), one backward pass goes only to the
outputs of these operations, and each record's norm and the clipped sums follow from inputs and
gradients (`blindsum.platform.training.clipping.terms`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsum.platform.training.clipping.book import Ambiguous, Book, Parts, Share
from blindsum.platform.training.clipping.clipped import (
    Clipped,
    Factors,
    Masks,
    Records,
    clip_factors,
    count,
    of_no_record,
    rows,
)
from blindsum.platform.training.clipping.copies import as_records
from blindsum.platform.training.clipping.precision import in_float32
from blindsum.platform.training.clipping.rules import RULES
from blindsum.platform.training.clipping.terms import Term, term
from blindsum.platform.training.losses import RecordLoss, classification


class BookKeeping:
    """Per-record clipping for models whose parameters are used by operations that have rules.

    Args:
        copies: of each record, which the model takes as `OfCopies` does.

    Raises, when it is called:
        NotCovered: a parameter is used in another way.
    """

    def __init__(
        self, model: nn.Module, loss: RecordLoss = classification, copies: int = 1
    ) -> None:
        self._model, self._loss, self._copies = model, loss, copies
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._settled: dict[tuple[int, str], bool] = {}

    def __call__(
        self, features: Records, labels: Tensor, clip_norm: float, masks: Masks = None
    ) -> Clipped:
        records = count(features)
        if not records:
            return of_no_record(self._parameters)
        try:
            parts = self._parts(features, labels, records)
        except Ambiguous:
            if records == 1:
                raise  # its copies cannot be told apart either
            half = records // 2
            first, second = (
                self(rows(features, some), labels[some], clip_norm, masks)
                for some in (slice(half), slice(half, None))
            )
            sums = [a + b for a, b in zip(first.sums, second.sums, strict=True)]
            return Clipped(sums, first.within + second.within)
        with torch.no_grad():
            terms = {
                share: term(calls, self._shape(share), _mask(share, masks))
                for share, calls in parts.items()
            }
            each = [one.norms().double() for one in terms.values()]
            norms = (
                torch.linalg.vector_norm(torch.stack(each), dim=0) if each else torch.zeros(records)
            )
            return Clipped(
                self._sums(terms, clip_factors(norms, clip_norm)), int((norms <= clip_norm).sum())
            )

    def _parts(self, features: Records, labels: Tensor, records: int) -> Parts:
        book = Book(self._parameters, records * self._copies, RULES, self._settled)
        with book:
            outputs = self._model(features)
        parts = book.parts(self._loss(outputs, labels).sum())
        self._settled = book.settled
        parts = in_float32(parts)  # exact; layers may compute in bfloat16
        return parts if self._copies == 1 else as_records(parts, self._copies)

    def _shape(self, share: Share) -> torch.Size:
        p = self._parameters[share.parameter]
        return torch.Size([share.stop - share.start, *p.shape[1:]]) if p.dim() else p.shape

    def _sums(self, terms: dict[Share, Term], factors: Factors) -> list[Tensor]:
        sums: list[Tensor | None] = [None] * len(self._parameters)
        for share, one in terms.items():
            p, found = self._parameters[share.parameter], one.clipped(factors)
            if found.shape == p.shape:
                sums[share.parameter] = found
                continue
            total = sums[share.parameter]
            total = torch.zeros_like(p) if total is None else total
            total[share.start : share.stop] = found
            sums[share.parameter] = total
        return [
            torch.zeros_like(p) if total is None else total
            for p, total in zip(self._parameters, sums, strict=True)
        ]


def _mask(share: Share, masks: Masks) -> Tensor | None:
    """Return what counts of the gradients of a part of a parameter."""
    if masks is None:
        return None
    mask = masks[share.parameter]
    return mask[share.start : share.stop] if mask.dim() else mask

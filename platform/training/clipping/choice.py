"""The choice of the cheapest method of per-record clipping for a model, tried before it is used.

Any model whose records do not mix can be clipped. Book-keeping costs little more than a plain step.
What it does not cover is left to gradients of many records at a time, and in the end to one record
after the other.

A trial sees what a model does with made-up records. Where real ones make it do something else,
book-keeping notices and the batch falls to the slow way, with one exception: a layer that only then
gets its records in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.training.clipping.book import NotCovered
from blindsum.platform.training.clipping.book_keeping import BookKeeping
from blindsum.platform.training.clipping.by_record import OneByOne, Vectorised
from blindsum.platform.training.clipping.clipped import Clipped, ClippedSum, Masks, Records
from blindsum.platform.training.clipping.copies import MeanOverCopies, OfCopies
from blindsum.platform.training.clipping.mixing import MEND, MakeUp, dense, mixes
from blindsum.platform.training.clipping.precision import InBfloat16, cannot
from blindsum.platform.training.clipping.trial import Trial
from blindsum.platform.training.losses import RecordLoss, classification

_Kind = Callable[[nn.Module, RecordLoss, int], ClippedSum]

_METHODS: dict[str, _Kind] = {
    "book-keeping": BookKeeping,
    "vectorised": lambda model, loss, copies: Vectorised(model, loss),
}

_SAYS = {
    "book-keeping": "gradients are clipped by book-keeping, at nearly the cost of a plain step",
    "vectorised": "by torch.func, which is slower",
    "one by one": "for one record after the other, which is much slower",
}


@dataclass(frozen=True)
class Chosen:
    """The method for one model.

    Attributes:
        method: `book-keeping`, `vectorised` or `one by one`.
        says: the method in one sentence, with the layer that decided it. It depends only on the
            model.
    """

    method: str
    says: str
    way: ClippedSum
    one_by_one: ClippedSum

    def __call__(
        self, features: Records, labels: Tensor, clip_norm: float, masks: Masks = None
    ) -> Clipped:
        """As `ClippedSum`. Where a batch takes a path through the model that the trial did not
        take, its records may have to follow one after the other."""
        try:
            return self.way(features, labels, clip_norm, masks)
        except Exception:  # noqa: BLE001 - of the user's code
            return self.one_by_one(features, labels, clip_norm, masks)


def clipped_sum(
    model: nn.Module,
    records: int | MakeUp,
    loss: RecordLoss = classification,
    labels: Tensor | None = None,
    copies: int = 1,
    bfloat16: bool = False,
) -> Chosen:
    """Return the cheapest method that clips the model's gradients right, on made-up records.

    Args:
        records: makes up records such as the model takes; a number stands for dense records with
            that many values.
        labels: any number of labels of the kind that the loss takes; zeros must be valid labels.
            By default they are classes.
        copies: K. If it is above 1, records come with K copies each, [B, K, ...], and a record's
            gradient is the mean of theirs.
        bfloat16: whether layers compute in bfloat16. The method is chosen in float32: the trial
            compares sums.

    Raises:
        ModelError: the model mixes the records of a batch, or fails on a record alone or in
            bfloat16.
    """
    made_up = dense(records, copies) if isinstance(records, int) else records
    kind = torch.zeros(0, dtype=torch.long) if labels is None else labels
    given = model
    if copies > 1:
        model, loss = OfCopies(model), MeanOverCopies(loss)
    trial, last = Trial(model, made_up, loss, kind), OneByOne(model, loss)
    with trial.moved():
        if mixes(model, made_up):
            raise ModelError(
                "the model mixes the records of a batch: one record's output changes with the "
                "others",
                MEND,
            )
        method, found, reason = "one by one", None, ""
        for name, make in _METHODS.items():
            found, why = _tried(trial, given, make(model, loss, copies), name)
            if found is not None:
                method = name
                break
            reason = reason or why
        if found is None:
            _refuse_failing(trial, last)
        way = found or last
        if bfloat16:
            lower = InBfloat16(model)
            last = OneByOne(lower, loss)
            way = _METHODS[method](lower, loss, copies) if found else last
            _refuse_failing_in_bfloat16(trial, way)
    return Chosen(method, _sentence(method, reason), way, last)


def _tried(
    trial: Trial, model: nn.Module, way: ClippedSum, method: str
) -> tuple[ClippedSum | None, str]:
    """Return the method if it is right, and else what it does not cover."""
    try:
        name = _difference(trial, way, method)
    except NotCovered as error:
        return None, f"{_layer(model, error.parameter)} {error.why}"
    except Exception as error:  # noqa: BLE001 - of the user's code, or of a library that refuses it
        return None, f"the model, which fails with {type(error).__name__} there"
    if name is not None:
        return None, f"'{name}', which has another gradient for each record"
    return way, ""


def _difference(trial: Trial, way: ClippedSum, method: str) -> str | None:
    """Return the first parameter whose sums differ; None if the method is right."""
    if method != "book-keeping" and trial.draws:
        # It draws in another order than the passes it is compared with: other dropout, not wrong.
        with trial.without_dropout():
            return trial.difference(way)
    return trial.difference(way)


def _refuse_failing(trial: Trial, way: ClippedSum) -> None:
    """Raise ModelError if not even one record after the other is possible."""
    try:
        trial.run(way)
    except Exception as error:  # noqa: BLE001 - of the user's code
        raise ModelError(
            f"the model's gradient of one record cannot be computed: {type(error).__name__}: "
            f"{error}",
            "The model must be trainable on a batch of one record.",
        ) from None


def _refuse_failing_in_bfloat16(trial: Trial, way: ClippedSum) -> None:
    """Raise ModelError if the method fails with layers in bfloat16."""
    try:
        trial.run(way)
    except Exception as error:  # noqa: BLE001 - of the user's code
        raise cannot(error) from None


def _sentence(method: str, reason: str) -> str:
    if method == "book-keeping":
        return _SAYS[method]
    text = f"book-keeping does not cover {reason}: gradients are clipped {_SAYS[method]}"
    # Names of layers and of errors come from the user's code, and a terminal shows them.
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _layer(model: nn.Module, parameter: Tensor) -> str:
    """Return the words for a layer and its parameter, to go on with what is done with it."""
    for name, layer in model.named_modules():
        for own, p in layer.named_parameters(recurse=False):
            if p is parameter:
                kind = type(layer).__name__
                where = f"layer '{name}' ({kind})" if name else f"the model ({kind})"
                return f"{where}, whose {own}"
    return "a layer, one of whose parameters"

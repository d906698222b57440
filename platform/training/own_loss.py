"""A loss of a job's own, `training.loss`.

Clipping bounds a record's gradient whatever its loss is, if the loss is that record's own. So the
function is never given more than one record at a time: what it computes for one cannot depend on
the others of its batch. Before that, it is tried on made-up batches. One that mixes records does
something else than its author means, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor
from torch.func import vmap

from blindsum.platform.errors import ModelError
from blindsum.platform.job.own_code import LOSS, own_function
from blindsum.platform.job.schema import Job
from blindsum.platform.training.torch_random import forked_random

Function = Callable[[Tensor, Tensor], Tensor]
MakeUp = Callable[[int], tuple[Tensor, Tensor]]
"""A function from a number of records to outputs and labels, which depend on no data."""

_RECORDS = 6
_TRIALS = 3
_MEND = (
    "Return one loss a record, each computed from that record's outputs and labels alone: a mean, "
    "a ranking or a normalisation over the batch mixes records."
)


def own_loss(job: Job, named: str) -> OwnLoss:
    """Import a job's own loss, and try it on made-up outputs and labels.

    Raises:
        ModelError: it cannot be imported, fails, does not return one finite loss for each record,
            has no gradient, or mixes the records of a batch.
    """
    function = own_function(LOSS, named)
    with forked_random(0):
        for _ in range(_TRIALS):
            _try(function, named, _made_up(job))
    return OwnLoss(function, named)


class OwnLoss:
    """A job's own loss, called with one record at a time.

    Args:
        function: takes outputs [1, outputs] and labels [1, ...], and returns [1].
        named: its name, for errors. They tell nothing else: what it raises may quote labels.
    """

    def __init__(self, function: Function, named: str) -> None:
        self._function, self._named = function, named

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses, [B], of outputs [B, outputs] and labels [B, ...].

        Raises:
            ModelError: the function fails, or returns something else than one loss.
        """
        with suppress(Exception):  # what torch cannot vectorise goes one by one
            found: Tensor = vmap(self._of_one, randomness="different")(outputs, labels)
            return found
        try:
            each = [self._of_one(a, b) for a, b in zip(outputs, labels, strict=True)]
        except Exception as error:  # noqa: BLE001 - the user's code
            raise ModelError(
                f"{LOSS} {self._named!r} failed with {type(error).__name__} on records of a silo",
                "Try it on labels of every kind that the job's tables have.",
            ) from None
        return torch.stack(each) if each else outputs.sum(1)

    def _of_one(self, outputs: Tensor, labels: Tensor) -> Tensor:
        found = self._function(outputs.unsqueeze(0), labels.unsqueeze(0))
        return found.reshape(1).squeeze(0)


def _made_up(job: Job) -> MakeUp:
    """Return a function that makes up outputs and labels such as the job has them."""
    count, tasks = job.data.outputs, list((job.data.tasks or {}).values())

    def classes(records: int) -> tuple[Tensor, Tensor]:
        return torch.randn(records, count), torch.randint(0, count, (records,))

    def of_tasks(records: int) -> tuple[Tensor, Tensor]:
        labels = torch.randn(records, 2, count)
        for i, task in enumerate(tasks):
            if task.kind == "binary":
                labels[:, 0, i] = (labels[:, 0, i] > 0).float()
            qualified = task.kind == "regression" and task.qualifier
            labels[:, 1, i] = torch.randint(-1, 2, (records,)).float() if qualified else 0.0
        if count > 1:  # with one task, every record has its label
            labels[:, 0][torch.rand(records, count) < 1 / 3] = torch.nan
        return torch.randn(records, count), labels

    return classes if job.data.target else of_tasks


def _try(function: Function, named: str, made_up: MakeUp) -> None:
    """Raise ModelError unless the function is a loss of single records."""
    outputs, labels = made_up(_RECORDS)
    outputs.requires_grad_(True)
    losses = _called(function, named, outputs, labels)
    if not bool(losses.isfinite().all()):
        gaps = " (labels of several tasks have gaps, which are NaN)" if labels.dim() > 1 else ""
        raise ModelError(
            f"{LOSS} {named!r} returns losses that are not finite on made-up records{gaps}",
            "Mask what is missing before it is used, and add a small number below logarithms and "
            "roots.",
        )
    if not losses.requires_grad:
        raise ModelError(
            f"{LOSS} {named!r} has no gradient: nothing would be learnt",
            "Compute it from the outputs with operations of torch, without detach or no_grad.",
        )
    for i in range(_RECORDS):
        (gradient,) = torch.autograd.grad(losses[i], outputs, retain_graph=True)
        if not bool(gradient.isfinite().all()):
            raise ModelError(f"{LOSS} {named!r} has gradients that are not finite", _MEND)
        others = torch.arange(_RECORDS) != i
        changed_outputs, changed_labels = made_up(_RECORDS)
        changed_outputs[i], changed_labels[i] = outputs[i].detach(), labels[i]
        alone = _called(function, named, outputs[i : i + 1], labels[i : i + 1])[0]
        changed = _called(function, named, changed_outputs, changed_labels)[i]
        same = all(torch.allclose(losses[i], x, rtol=1e-4, atol=1e-5) for x in (alone, changed))
        if not same or bool(gradient[others].any()):
            raise ModelError(
                f"{LOSS} {named!r} mixes the records of a batch: one record's loss changes with "
                "the others",
                _MEND,
            )


def _called(function: Function, named: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the losses of a made-up batch."""
    torch.manual_seed(0)  # of a loss that draws
    try:
        losses = function(outputs, labels)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
        raise ModelError(
            f"{LOSS} {named!r} failed with {type(error).__name__} on {len(labels)} made-up "
            f"records: {error}",
            "It is called with outputs [records, outputs] and labels; docs/job-file.md says of "
            "what kind these are.",
        ) from None
    shape = tuple(getattr(losses, "shape", ()))
    if shape != (len(labels),) or not losses.is_floating_point():
        raise ModelError(
            f"{LOSS} {named!r} returns shape {shape}, expected ({len(labels)},) of float32", _MEND
        )
    return losses

"""The average of the rounds' models, which a run evaluates, saves and releases.

Training goes on from the newest model, whose figures oscillate, because every step brings fresh
noise. The average is computed from models that every silo has already received and reads no record:
it is post-processing, and costs no budget. After round t, with w_t the newest model:

    a_t = a_(t-1) + c_t (w_t - a_(t-1)),  and c_1 = 1

    polynomial    c_t = (eta + 1) / (t + eta): polynomial-decay averaging (Shamir and Zhang, ICML
                  2013, section 4). It needs no number of rounds, and forgets the beginning.
    exponential   c_t = (1 - d) / (1 - d^t) for the decay d: the exponential moving average with
                  the bias correction of Adam (Kingma and Ba, ICLR 2015, section 3)
    none          c_t = 1: the newest model

As c_1 = 1, the initial model has no weight and the weights sum to 1. The code uses only operations
whose rounding IEEE 754 defines, and no power: silos on different processors get the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import nn

from blindsum.platform.job.average_section import Average
from blindsum.platform.training.models import (
    get_parameters,
    get_private,
    set_parameters,
    set_private,
)
from blindsum.platform.training.vector import Vector
from blindsum.platform.training.vector_room import IN_MEMORY, VectorRoom, blocks

Head = tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """An average of the rounds' models.

    Attributes:
        shared: of the shared parameters, float32 [parameters]; the same in every silo.
        head: of this silo's private head, which never leaves it. It is averaged by the same
            weights: a head fits only the shared layers with which it was trained.
    """

    shared: Vector = field(repr=False)
    head: Head = field(default=(), repr=False)


def averaged(
    rule: Average,
    before: Averaged,
    model: nn.Module,
    round: int,
    room: VectorRoom = IN_MEMORY,
) -> Averaged:
    """Return the average after a round.

    Args:
        before: the average after the round before; not used in round 1.
        model: the model with the parameters after that round.
        room: where the average lies.
    """
    share = newest_share(rule, round)
    newest = of_model(model, room)
    pairs = zip([before.shared, *before.head], [newest.shared, *newest.head], strict=True)
    shared, *head = (_moved(old, new, share) for old, new in pairs)
    return Averaged(shared=shared, head=tuple(head))


def newest_share(rule: Average, round: int) -> float:
    """Return the newest model's weight in the average after that round, c_t."""
    if rule.kind == "none":
        return 1.0
    if rule.kind == "polynomial":
        return (rule.eta + 1) / (round + rule.eta)
    weights = 0.0
    for _ in range(round):  # 1 + d + ... + d^(t-1)
        weights = 1.0 + rule.decay * weights
    return 1.0 / weights


def of_model(model: nn.Module, room: VectorRoom = IN_MEMORY) -> Averaged:
    """Return a model's present parameters as an average of one model."""
    return Averaged(shared=get_parameters(model, room), head=get_private(model))


@contextmanager
def showing(
    model: nn.Module, average: Averaged, room: VectorRoom = IN_MEMORY
) -> Iterator[nn.Module]:
    """Let the model have the average's parameters for a while, to evaluate or save it.

    Args:
        room: where the model's own parameters lie meanwhile.
    """
    newest = of_model(model, room)
    load(model, average)
    try:
        yield model
    finally:
        load(model, newest)


def load(model: nn.Module, average: Averaged) -> None:
    """Give the model the average's parameters."""
    set_parameters(model, average.shared)
    set_private(model, average.head)


def _moved(
    old: npt.NDArray[np.float32], new: npt.NDArray[np.float32], share: float
) -> npt.NDArray[np.float32]:
    """Return the old values moved by that share of the way to the new ones, in the new ones'
    place."""
    if share == 1.0:
        return new  # exactly, and even if the old values are not finite
    moved, start = new.reshape(-1), old.reshape(-1)
    for where in blocks(moved.size, moved, start):
        step = (moved[where].astype(np.float64) - start[where]) * share
        moved[where] = start[where] + step
    return moved.reshape(new.shape)

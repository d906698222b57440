"""A silo that was away comes back: it takes over the state of another silo that stayed.

The digest of the model and its average is the one on which all silos agreed, or the next exchange
refuses it. Range and clip norm come with the state, and the same check holds them: masks depend on
both.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsum.actors.prepared import PreparedSilo
from blindsum.actors.silo_state import ModelState
from blindsum.platform.errors import FederationError
from blindsum.platform.state.checkpoint import Checkpoint, from_bytes, to_bytes


def state_for_another(own: PreparedSilo, now: ModelState) -> bytes:
    """Return what another silo needs to go on from here. Nothing in it is this silo's own: all
    silos have the same model, optimizer and course."""
    course = own.policy.course
    return to_bytes(
        Checkpoint(
            round=now.round,
            model=now.vector,
            average=replace(now.average, head=()),
            optimizer=own.optimizer.state,
            head=(),
            unsent=None,
            random=None,
            range=course.range,
            clipping=course.clipping,
        )
    )


def take_over(own: PreparedSilo, content: bytes) -> ModelState:
    """Take over another silo's state, keep it as a checkpoint, and return it. The private head,
    its average and what was not sent stay as they were in this silo's newest checkpoint.

    Raises:
        FederationError: it is not a state that this run can have.
        DataError: the checkpoint cannot be written.
    """
    kept = from_bytes(content, own.room)
    if kept is None or not _fits(own, kept):
        raise FederationError(
            "received a state that this run cannot have",
            "All silos must run the same version of blindsum.",
        )
    if mine := own.checkpoints.rounds():
        last = own.checkpoints.read(max(mine))
        average = replace(kept.average, head=last.average.head)
        kept = replace(kept, head=last.head, average=average, unsent=last.unsent)
    taken = own.go_to(kept)
    own.keep(taken)
    return taken


def _fits(own: PreparedSilo, kept: Checkpoint) -> bool:
    models = [kept.model, kept.average.shared]
    arrays: list[npt.NDArray[Any]] = [*models, *kept.optimizer]
    return (
        not (kept.head or kept.average.head)
        and kept.random is None
        and kept.unsent is None
        and all(one.dtype == np.float32 and one.shape == (own.values,) for one in models)
        and [(a.shape, a.dtype) for a in kept.optimizer]
        == [(np.shape(a), np.asarray(a).dtype) for a in own.optimizer.state]
        and all(np.isfinite(array).all() for array in arrays)
        and all(math.isfinite(x) and x > 0 for x in (kept.range, kept.clipping))
        and type(kept.round) is int
        and 0 <= kept.round <= own.job.training.rounds
    )

"""The states of a silo in one run, and the methods that may be called in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from blindsum.actors.policy import Course
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import FederationError
from blindsum.platform.training.average import Averaged
from blindsum.platform.training.control_variates import ControlVariates
from blindsum.platform.training.vector import Vector


class SiloState(Enum):
    """The state of a silo in one run.

        STARTED -> PREPARED -> AGREEING -> READY -> TRAINED -> READY -> ...
                                           READY -> COUNTED -> READY

    A new attempt of a round goes from TRAINED, COUNTED or READY to TRAINED, and a new key ceremony
    from PREPARED or any later state to AGREEING. A method that fails leaves the state unchanged,
    but ends an exchange that it began: a second answer to that exchange is refused.
    """

    STARTED = "it was not inspected yet"
    """It knows its job, and has read nothing."""
    PREPARED = "it has no keys yet"
    """Data, model and plan are checked. Nothing is spent, and no other silo knows of this one."""
    AGREEING = "a key ceremony is running"
    """It has introduced itself, and given up older keys."""
    READY = "no exchange of its own is open"
    """It holds keys, its plan is reserved, and no exchange of its own is open."""
    TRAINED = "it waits for the total of its update"
    """It has charged its ledger and sent its update."""
    COUNTED = "it waits for the metrics of its model"
    """It has charged its ledger and sent the counts of its newest model."""


_KEYED = frozenset({SiloState.READY, SiloState.TRAINED, SiloState.COUNTED})
_RUNNING = _KEYED | {SiloState.AGREEING}

ALLOWED: Mapping[str, frozenset[SiloState]] = {
    "inspect": frozenset({SiloState.STARTED}),
    "restore": frozenset({SiloState.PREPARED}),
    "request_state": frozenset({SiloState.PREPARED}),
    "seal_state": frozenset({SiloState.READY}),
    "take_state": frozenset({SiloState.PREPARED}),
    "introduce": _RUNNING | {SiloState.PREPARED},
    "contribute": frozenset({SiloState.AGREEING}),
    "agree": frozenset({SiloState.AGREEING}),
    "finish": frozenset({SiloState.AGREEING}),
    "train": _KEYED,
    "apply": frozenset({SiloState.TRAINED}),
    "evaluate": _KEYED,
    "read_metrics": frozenset({SiloState.COUNTED}),
    "forget": _RUNNING | {SiloState.PREPARED},
}
"""The states in which each method may be called. `release`, `progress` and `ping` answer in all of
them."""


def require_allowed(method: str, state: SiloState) -> None:
    """Raise FederationError unless that method may be called in that state."""
    if state not in ALLOWED[method]:
        raise FederationError(
            f"this silo was asked to {method.replace('_', ' ')}, but {state.value}",
            "The driver must call silos in the order of blindsum.actors.silo_state.",
        )


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The global model after a round, with everything else on which the next model depends.

    Attributes:
        vector: float32 [parameters].
        average: of the models up to this one; it is evaluated and released.
        digest: of the model and its average, on which all silos must agree; before round 1, of the
            initial weights.
        optimizer: the server optimizer's state.
        unsent: what this silo's updates so far did not carry, float32 [parameters]; private to it,
            and None without `encryption.error_feedback`.
        course: range and clipping of the next round.
        mark: the vault's mark of what it had accepted by then.
        variates: the control variates; None if the job uses none, or they begin anew.
    """

    round: int
    vector: Vector = field(repr=False)
    average: Averaged = field(repr=False)
    digest: str
    optimizer: tuple[npt.NDArray[np.float64], ...] = field(repr=False)
    course: Course
    mark: tuple[bytes, bytes] = field(default=(b"", b""), repr=False)
    variates: ControlVariates | None = field(default=None, repr=False)
    unsent: Vector | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SentUpdate:
    """An update that a silo sent and whose total it awaits.

    Attributes:
        unit: the change of the parameters that a value of 1 stands for.
        evaluated: whether the counts of the model before it went along.
        variates: the control variates with which it was computed; None without.
        values: the values as they were sent, float32 [parameters], if there are control variates.
        unsent: as of `ModelState`, once this update's total is applied.
    """

    exchange: Exchange
    unit: float
    evaluated: bool
    variates: ControlVariates | None = field(default=None, repr=False)
    values: Vector | None = field(default=None, repr=False)
    unsent: Vector | None = field(default=None, repr=False)

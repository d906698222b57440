"""Taking the released model from the silos, of which some may be lost or busy."""

from __future__ import annotations

import time
from collections.abc import Iterable

from blindsum.actors.answers import value_of
from blindsum.actors.cluster import Cluster
from blindsum.actors.codec import decoded_models
from blindsum.actors.handles import SiloHandle
from blindsum.actors.silo_messages import Release
from blindsum.platform.errors import BlindsumError, FederationError
from blindsum.platform.training.vector import digest


def released_by(
    silos: Iterable[SiloHandle], cluster: Cluster, round: int, state_digest: str, timeout_s: float
) -> Release:
    """Return the average and the newest model on which all silos agreed after that round, from the
    first silo that returns them.

    Args:
        state_digest: of the newest model and the average, in this order.

    Raises:
        FederationError: no silo returns models with that digest in time.
    """
    asked = {one.handle: one for one in (silo.release(round) for silo in silos)}
    end, waiting = time.monotonic() + timeout_s, list(asked)
    while waiting:
        outcomes = cluster.wait(waiting, 1, max(0.0, end - time.monotonic()))
        if not outcomes:
            break
        waiting = [handle for handle in waiting if handle not in outcomes]
        for handle, outcome in outcomes.items():
            try:
                answer = value_of(outcome, asked[handle].peer, "release the model")
                of, models = decoded_models(answer)
            except BlindsumError:
                continue  # this silo was lost, or has no such model
            if of == round and len(models) == 2 and digest(models[1], models[0]) == state_digest:
                return Release(round, *models)
    raise FederationError(f"no silo is left that has the model after round {round}")

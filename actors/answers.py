"""One answer of a silo or an aggregator, and what it means that there is none."""

from __future__ import annotations

from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    ClusterError,
    FederationError,
    SiloLost,
    Unexpected,
)


def fetch(ref: ObjectRef[Any], name: str, doing: str) -> Any:
    """One answer of a silo or an aggregator, with Ray's wrappings taken off its error."""
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, BlindsumError):
            raise cause from None
        if isinstance(cause, (RayActorError, ObjectLostError)):
            # Its input is gone: silos have theirs from aggregators. (An aggregator has it from a silo
            # that is found to be lost before, or in the next attempt.)
            raise AggregatorLost(
                "an aggregator's process died", "Look at its node's memory and logs."
            ) from None
        raise Unexpected(
            f"'{name}' failed with {type(cause).__qualname__} while asked to {doing}",
            "This is a fault in Blindsum: please report it.",
        ) from None
    except RayActorError as error:
        started = not isinstance(error, ActorUnschedulableError) and not error.actor_init_failed
        raise (lost(name, doing) if started else _never_started(name, error)) from None
    except ObjectLostError:
        raise lost(name, doing) from None
    except (RayError, GetTimeoutError) as error:
        raise FederationError(f"'{name}' gave no answer: {type(error).__name__}") from None


def lost(name: str, doing: str) -> FederationError:
    """Return the error for a silo or an aggregator whose process died."""
    if " " in name:
        return AggregatorLost(f"{name}'s process died", "Look at its node's memory and logs.")
    return SiloLost(
        f"its process died while asked to {doing}",
        "Look at that node's memory and logs, then start the job again.",
        silo=name,
    )


def _never_started(name: str, error: RayActorError) -> ClusterError:
    return ClusterError(
        f"'{name}' could not start on its node ({type(error).__name__})",
        "The node needs the same blindsum, with its dependencies, as the driver.",
    )

"""A cluster whose peers are Ray actors, on the Ray to which this process is connected."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from blindsum.actors.aggregator import AggregatorActor
from blindsum.actors.cluster import (
    Answered,
    Died,
    Handle,
    InputLost,
    Outcome,
    Peer,
    Raised,
    Unreachable,
)
from blindsum.actors.codec import encoded
from blindsum.actors.messages import SiloSpec
from blindsum.actors.placement import aggregator_options, pinned, require_no_others, silo_options
from blindsum.actors.silo_actor import SiloActor
from blindsum.actors.simulated_silos import (
    SharedActor,
    SharedActorProcess,
    SiloEnded,
    SimulatedSilo,
    start_simulated,
)

FETCH_S = 60.0
"""The longest time to fetch an answer that already exists on another node."""


class RayCluster:
    """A `Cluster` of Ray actors.

    Args:
        silo_actor, aggregator_actor, shared_actor: Ray actor classes with the same methods, for
            tests and benchmarks that look inside.
        cores: how many cores the silos of one machine may use together; default: all.
        own: whether this Ray is one silo's own, so that no other organisation runs code on it.
    """

    def __init__(
        self,
        silo_actor: Any = SiloActor,
        aggregator_actor: Any = AggregatorActor,
        cores: int | None = None,
        own: bool = False,
        shared_actor: Any = SharedActor,
    ) -> None:
        self._silo_actor, self._aggregator_actor = silo_actor, aggregator_actor
        self._shared_actor = shared_actor
        self._shared: dict[str, SharedActorProcess] = {}
        self._cores, self._own = cores or os.cpu_count() or 1, own

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, Peer]:
        """As `Cluster.start_silos`. Silos that share a machine share its cores.

        Raises:
            ClusterError: also, a silo has workers, and other organisations' silos are here; or the
                job simulates silos that share processes, and silos' own machines are here.
        """
        offered = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if not self._own and any(one.job.silo(n).workers > 1 for n, one in specs.items()):
            require_no_others(offered)
        if any(one.job.simulation for one in specs.values()):
            return self._start_simulated(specs, offered)
        options = silo_options(
            {name: one.job.silo(name).own_gpus for name, one in specs.items()}, offered
        )
        if not pinned(options):
            specs = self._sharing_cores(specs)
        return {
            name: self._silo_actor.options(**options[name]).remote(encoded(spec))
            for name, spec in specs.items()
        }

    def _sharing_cores(self, specs: Mapping[str, SiloSpec]) -> dict[str, SiloSpec]:
        threads = max(1, self._cores // max(1, len(specs)))
        return {name: replace(spec, threads=threads) for name, spec in specs.items()}

    def _start_simulated(
        self, specs: Mapping[str, SiloSpec], offered: Mapping[str, float]
    ) -> dict[str, Peer]:
        found = start_simulated(self._sharing_cores(specs), offered, self._shared_actor)
        self._shared |= {one.process.id: one.process for one in found.values()}
        return dict(found)

    def returned(self, lost: Collection[str]) -> list[str]:
        """As `Cluster.returned`: on one Ray, a silo that was lost stays out."""
        return []

    def start_aggregators(self, count: int, keep: bool) -> list[Peer]:
        """As `Cluster.start_aggregators`."""
        here = ray.get_runtime_context().get_node_id()
        options = aggregator_options(count, ray.nodes(), here)  # type: ignore[no-untyped-call]
        return [
            self._aggregator_actor.options(**one).remote(index, count, keep)
            for index, one in enumerate(options)
        ]

    def call(self, peer: Peer, method: str, *arguments: Any, answers: int = 1) -> list[Handle]:
        """As `Cluster.call`."""
        if isinstance(peer, SimulatedSilo):
            return [peer.call(method, arguments)]
        refs = getattr(peer, method).remote(*arguments)
        return list(refs) if answers > 1 else [refs]

    def wait(
        self, handles: Sequence[Handle], count: int, timeout_s: float
    ) -> dict[Handle, Outcome]:
        """As `Cluster.wait`."""
        done, _ = ray.wait(list(handles), num_returns=count, timeout=timeout_s)
        return {ref: self._outcome(ref) for ref in done}

    def kill(self, peer: Peer) -> None:
        """As `Cluster.kill`."""
        if isinstance(peer, SimulatedSilo):
            return peer.kill()
        ray.kill(peer, no_restart=True)
        return None

    def _outcome(self, ref: Handle) -> Outcome:
        """Return the outcome of a call that has ended, without Ray's wrappers."""
        try:
            return Answered(ray.get(ref, timeout=FETCH_S))
        except RayTaskError as error:
            if isinstance(error.cause, SiloEnded):
                return Died() if error.cause.task == ref.task_id().hex() else InputLost()
            if isinstance(error.cause, (RayActorError, ObjectLostError)):
                return InputLost()
            return Raised(error.cause)
        except RayActorError as error:
            unschedulable = isinstance(error, ActorUnschedulableError)
            shared = self._shared.get(error.actor_id or "")
            return Died(
                started=not unschedulable and not error.actor_init_failed,
                reason=type(error).__name__,
                together=shared.left if shared else (),
            )
        except ObjectLostError:
            return Died()
        except (RayError, GetTimeoutError) as error:
            return Unreachable(type(error).__name__)

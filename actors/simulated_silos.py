"""Simulated silos that share processes of Ray, as `simulation.silos_per_process` asks for.

Each process is one actor. It passes a call on to the silo that it names, and each silo has its own
threads there, so that a silo which computes or hangs holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from blindsum.actors.codec import decoded, encoded
from blindsum.actors.messages import SiloSpec
from blindsum.actors.placement import shared_options
from blindsum.actors.shell import Call, set_up_process
from blindsum.actors.silo_actor import CALLS, silo_class
from blindsum.he.exchange import SiloName

if TYPE_CHECKING:
    from blindsum.actors.silo import Silo


class SiloEnded(Exception):
    """A silo was ended before it answered.

    Args:
        task: Ray's id of the call that it did not answer, in hex. Ray raises this error in calls
            that were to receive that answer, too.
    """

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task


def as_shared_actor(load: Callable[[], type[Silo]] = silo_class, *more: str) -> Any:
    """Return the Ray actor class of processes with several silos of that class.

    Args:
        load, more: as of `blindsum.actors.silo_actor.as_actor`.
    """

    class SimulatedSilos:
        def __init__(self, spec: bytes, names: bytes) -> None:
            from blindsum.actors.shared_process import SharedProcess

            set_up_process()
            known = CALLS | dict.fromkeys(more, Call(answers=False))
            self._process = SharedProcess(
                load(), known, decoded(spec, SiloSpec), decoded(names, tuple[SiloName, ...])
            )

        async def call(self, silo: str, method: str, *arguments: Any) -> Any:
            from blindsum.actors.thread_peer import Killed

            task = ray.get_runtime_context().get_task_id() or ""
            try:
                return await asyncio.wrap_future(self._process.call(silo, method, arguments))
            except Killed:
                raise SiloEnded(task) from None

        async def end(self, silo: str) -> None:
            self._process.end(silo)

    options: dict[str, Any] = {"allow_out_of_order_execution": True}
    return ray.remote(**options)(SimulatedSilos)


SharedActor = as_shared_actor()


class SharedActorProcess:
    """One process with simulated silos, as the driver knows it.

    Args:
        actor: the actor.
        names: its silos.
    """

    def __init__(self, actor: Any, names: Sequence[str]) -> None:
        self.actor, self._left = actor, list(names)

    @property
    def left(self) -> tuple[str, ...]:
        """The silos that were not ended."""
        return tuple(self._left)

    @property
    def id(self) -> str:
        """Ray's id of the actor, in hex."""
        return str(self.actor._actor_id.hex())

    def end(self, silo: str) -> None:
        """End one silo, and with the last of them the process."""
        if silo not in self._left:
            return
        self._left.remove(silo)
        self.actor.end.remote(silo)
        if not self._left:
            ray.kill(self.actor, no_restart=True)


@dataclass(frozen=True, eq=False)
class SimulatedSilo:
    """A silo in a process that it shares."""

    name: str
    process: SharedActorProcess

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method; returns Ray's reference of its answer."""
        return self.process.actor.call.remote(self.name, method, *arguments)

    def kill(self) -> None:
        """End this silo alone: it answers nothing more, and sends nothing more."""
        self.process.end(self.name)


def start_simulated(
    specs: Mapping[str, SiloSpec], offered: Mapping[str, float], actor: Any = SharedActor
) -> dict[str, SimulatedSilo]:
    """Start the silos of a job with a section `simulation`, in processes that they share.

    Args:
        offered: the cluster's resources, as `ray.cluster_resources()` returns them.
        actor: the Ray actor class of a process.

    Raises:
        ClusterError: these silos are not simulated: this Ray has machines of their owners. Or
            there are too few GPUs.
    """
    job = next(iter(specs.values())).job
    names, size = list(specs), job.simulation.silos_per_process if job.simulation else 1
    groups = [names[at : at + size] for at in range(0, len(names), size)]
    gpus = {name: job.silo(name).own_gpus for name in names}
    options = shared_options(groups, gpus, offered)
    found: dict[str, SimulatedSilo] = {}
    for group, one in zip(groups, options, strict=True):
        started = actor.options(**one).remote(encoded(specs[group[0]]), encoded(group))
        process = SharedActorProcess(started, group)
        found |= {name: SimulatedSilo(name, process) for name in group}
    return found

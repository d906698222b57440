"""Silos that were lost and come back: they are brought to the run's standing, beside its rounds.

A returning silo starts and checks its data while the others go on. Between two rounds it takes
over the present state, from its own checkpoint or sealed by a silo that stayed; the federation then
holds a key ceremony with it. Whatever fails here costs the run nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from blindsum.actors.agreement import same_size
from blindsum.actors.cluster import Cluster
from blindsum.actors.handles import Reply, SiloHandle
from blindsum.actors.messages import SiloSpec, Standing
from blindsum.actors.silo_messages import Inspection
from blindsum.actors.waiting import Waiting
from blindsum.platform.errors import BlindsumError, ModelsDiffer
from blindsum.platform.events import Log

MOST_RETURNS = 5
"""How often one silo may come back in a run."""


class Returns:
    """The silos of one run that are on their way back.

    Args:
        spec_of: returns a silo's specification.
        within_s: the deadline of each step, in seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        waiting: Waiting,
        spec_of: Callable[[str], SiloSpec],
        within_s: float,
        log: Log,
    ) -> None:
        self._cluster, self._waiting, self._spec_of = cluster, waiting, spec_of
        self._within_s, self._log = within_s, log
        self._times: Counter[str] = Counter()
        self._starting: dict[str, tuple[SiloHandle, Reply[Inspection]]] = {}

    def brought(
        self, at: Standing, stayed: Mapping[str, SiloHandle], lost: Collection[str], values: int
    ) -> dict[str, SiloHandle]:
        """Return the silos that have arrived at the run's standing; start those that could.

        Args:
            stayed: the silos of the newest round.
            lost: the names of those that are missing.
            values: the number of parameters of the run's model.
        """
        self._start([name for name in lost if name not in self._starting])
        ready = [
            name
            for name, (_, reply) in self._starting.items()
            if self._cluster.wait([reply.handle], 1, 0.0)
        ]
        found = {}
        for name in ready:
            silo, reply = self._starting.pop(name)
            try:
                self._bring(silo, reply, at, next(iter(stayed.values())), values)
                found[name] = silo
            except BlindsumError as error:
                self._log.say("could not return", silo=name, said=error.what)
                silo.kill()
        return found

    def _start(self, names: Collection[str]) -> None:
        for name in self._cluster.returned(names) if names else ():
            if self._times[name] >= MOST_RETURNS:
                continue
            self._times[name] += 1
            spec = self._spec_of(name)
            silo = SiloHandle(name, self._cluster.start_silos({name: spec})[name], self._cluster)
            self._starting[name] = silo, silo.inspect()

    def _bring(
        self,
        silo: SiloHandle,
        reply: Reply[Inspection],
        at: Standing,
        stayed: SiloHandle,
        values: int,
    ) -> None:
        gather, within_s = self._waiting.gather, self._within_s
        inspection = gather([reply], "start", within_s)[silo.name]
        same_size([inspection.parameters, values])
        if inspection.kept.get(at.round) == at.model:
            restored = gather([silo.restore(at.round)], "restore its state", within_s)[silo.name]
        else:
            request = gather([silo.request_state()], "request the state", within_s)[silo.name]
            sealed = gather([stayed.seal_state(request)], "seal its state", within_s)
            taking = silo.take_state(sealed[stayed.name])
            restored = gather([taking], "take over the state", within_s)[silo.name]
        if restored != at.model:
            raise ModelsDiffer("the state that it took over is not the run's")

    def close(self) -> None:
        """End the silos that are on their way."""
        for silo, _ in self._starting.values():
            silo.kill()
        self._starting = {}

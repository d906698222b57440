"""A silo that reads its data for long says so across clusters too, and only its share crosses."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from blindsum.actors.federation import Federation
from blindsum.actors.silo import Silo
from blindsum.actors.silo_messages import Inspection
from tests.actors.separate.test_federation import World
from tests.conftest import MakeJob

DEADLINE_S = 6.0


class WorkingSilo(Silo):
    """A silo that is at work for longer than the deadline."""

    def inspect(self) -> Inspection:
        end, never = time.monotonic() + DEADLINE_S + 2, threading.Event()
        while time.monotonic() < end:
            self._work.step(0.437)
            never.wait(0.05)
        return super().inspect()


def test_a_silo_of_another_cluster_may_work_longer_than_the_deadline(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path
) -> None:
    template = make_job(f"deadlines.start_s={DEADLINE_S}").job
    world = World(tmp_path, tables, template)
    told: list[Mapping[str, int]] = []
    try:
        world.connect(WorkingSilo)
        digest = world.propose()
        cluster = world.coordinator.cluster(digest, world.job, 30.0)
        one = Federation(world.job, "run", "", cluster)
        world.federations.append(one)
        assert set(one.inspect(told.append)) == set(world.job.roster)
    finally:
        world.close()
    assert dict.fromkeys(world.job.roster, 40) in told
    assert {percent for shares in told for percent in shares.values()} == {40}

"""Simulated silos in shared processes of a real Ray: their placement, their end, and their loss."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from blindsum.actors.cluster import Died, InputLost
from blindsum.actors.federation import Federation
from blindsum.actors.messages import SiloSpec
from blindsum.actors.placement import shared_options
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.separate.cluster import SeparateCluster
from blindsum.actors.silo import Silo
from blindsum.actors.simulated_silos import as_shared_actor
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.platform.errors import ClusterError, SiloLost
from blindsum.platform.training.vector import digest
from tests.conftest import MakeJob

SHARED = "simulation.silos_per_process=2"


class WatchedSilo(Silo):
    """A silo that tells its process, and can be told to wait for ever in a round."""

    def process(self) -> int:
        return os.getpid()

    def stop_at(self, round: int, fifo: str) -> None:
        real = self._own.trainer.train

        def train(*arguments: Any) -> Any:
            if self._model.round + 1 == round:
                Path(fifo).read_text()
            return real(*arguments)

        self._own.trainer.train = train  # type: ignore[method-assign, assignment]


def test_on_a_real_ray_a_silo_ends_alone_and_a_process_with_all_its_silos(
    make_job: MakeJob, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})  # without silos' machines
    shutil.copy(tmp_path / "cedar.parquet", tmp_path / "elm.parquet")
    base = make_job(SHARED, "quorum=2").job
    elm = base.silos[2].model_copy(
        update={"name": "elm", "data": "elm.parquet", "state": str(tmp_path / "state" / "elm")}
    )
    deadlines = base.deadlines.model_copy(update={"round_s": 5.0})
    job = base.model_copy(update={"silos": [*base.silos, elm], "deadlines": deadlines})
    shared = as_shared_actor(lambda: WatchedSilo, "process", "stop_at")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    one = Federation(job, "run", str(tmp_path), RayCluster(shared_actor=shared))
    silos = dict(one._silos)

    def ask(name: str, method: str, *arguments: Any) -> Any:
        return ray.get(silos[name].peer.call(method, arguments))

    try:
        one.inspect()
        one.exchange_keys()
        pids = {name: ask(name, "process") for name in silos}
        assert pids["alder"] == pids["birch"] != pids["cedar"] == pids["elm"]
        ask("birch", "stop_at", 1, str(fifo))
        report = one.run_round(1)  # birch hangs, and is ended beside alder
        assert report.roster == ("alder", "cedar", "elm") and one.lost == {"birch": 1}
        assert ask("alder", "process") == pids["alder"]
        ended = silos["birch"].ping().handle
        assert one._cluster.wait([ended], 1, 10) == {ended: Died()}
        after = silos["alder"].peer.call("train", (b"", ended))
        assert one._cluster.wait([after], 1, 10) == {after: InputLost()}
        os.kill(pids["cedar"], signal.SIGKILL)
        lost = "silo 'cedar, elm', round 2: the process that they shared .* died"
        with pytest.raises(SiloLost, match=lost):
            one.run_round(2)
        release = one.release(1, report.state_digest)
        assert digest(release.vector) == report.model_digest
    finally:
        one.close()


def test_simulated_silos_are_refused_where_silos_have_machines_of_their_own() -> None:
    """One process would have the records of several owners, on one owner's machine."""
    offered = {"CPU": 4.0, "silo:alder": 1.0, "silo:birch": 1.0}
    with pytest.raises(ClusterError, match=r"machines of silos: alder, birch\. Leave the job's"):
        shared_options([["alder", "birch"]], {"alder": 0.0, "birch": 0.0}, offered)


def test_silos_that_share_a_process_share_its_gpu() -> None:
    gpus = dict.fromkeys("abcd", 0.4)
    options = shared_options([["a", "b"], ["c", "d"]], gpus, {"GPU": 2.0})
    assert [one["num_gpus"] for one in options] == [0.8, 0.8]
    assert shared_options([[*"abcd"]], gpus, {"GPU": 1.0})[0]["num_gpus"] == 1.0
    with pytest.raises(ClusterError, match="asks for 1.6 GPUs in all"):
        shared_options([["a", "b"], ["c", "d"]], gpus, {"GPU": 1.0})


def test_a_coordinator_starts_no_simulated_silos(make_job: MakeJob) -> None:
    job_file = make_job(SHARED)
    spec = SiloSpec(job=job_file.job, run="run", name="alder", folder="")
    separate = SeparateCluster(ThreadCluster(), {}, "", 5.0)
    with pytest.raises(ClusterError, match="alder are in clusters of their owners"):
        separate.start_silos({"alder": spec})
    separate.close()

"""Workers in processes of Ray: they sum, they die, and they are nobody else's."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from blindsum.actors.admission import Admission
from blindsum.actors.messages import SiloSpec
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.workers.processes import RayProcesses
from blindsum.platform.errors import ClusterError, DataError, SiloLost
from tests.actors.test_silo import Consortium
from tests.actors.workers.test_team import NO_NOISE, TWO, close
from tests.conftest import MakeJob, ledger_of

SHARED_WITH_OTHERS = "this Ray also runs other organisations' silos. Leave silos.NAME.workers out"


@pytest.fixture
def own_ray(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cluster be one silo's own: it has resources of several, but nobody else uses it."""
    monkeypatch.setattr(Admission, "by_agent", True)


def spec(make_job: MakeJob, *more: str) -> SiloSpec:
    job_file = make_job(TWO, *more)
    return SiloSpec(job=job_file.job, run="run-1", name="alder", folder=str(job_file.folder))


def test_workers_are_refused_where_other_silos_run(cluster: Any, make_job: MakeJob) -> None:
    with pytest.raises(ClusterError, match=SHARED_WITH_OTHERS):
        Silo(spec(make_job)).inspect()
    with pytest.raises(ClusterError, match=SHARED_WITH_OTHERS):
        RayCluster().start_silos({"alder": spec(make_job)})


def test_processes_sum_what_one_would(own_ray: None, make_job: MakeJob) -> None:
    alone = Consortium(make_job(NO_NOISE), "run-1")
    together = Consortium(make_job(NO_NOISE, TWO), "run-2")
    metrics = [[one.round(number) for number in (1, 2)] for one in (alone, together)]
    close(alone, together, rounds=2)
    assert metrics[0][1].held_out and metrics[1][1].held_out
    assert metrics[0][1].held_out.records == metrics[1][1].held_out.records
    share = together.silos["alder"]._work.progress()
    assert 0 <= share.percent <= 100


def test_a_worker_that_dies_in_a_round_takes_its_silo_out(
    own_ray: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    consortium = Consortium(make_job(TWO))
    silo, wait = consortium.silos["alder"], RayProcesses._all

    def kill(self: RayProcesses, asked: Sequence[Any], told: Any = None) -> list[Any]:
        ray.kill(self._workers[1])  # once it was asked
        return wait(self, asked, told)

    monkeypatch.setattr(RayProcesses, "_all", kill)
    with pytest.raises(SiloLost, match=r"silo 'alder': its worker 2 of 2 died \(ActorDiedError\)"):
        silo.train(consortium.exchange())
    assert not silo.taken(), "no partial sum was sent"
    kinds = [one.kind for one in ledger_of(tmp_path / "state" / "alder", "alder").entries()]
    assert kinds == ["reserve", "charge"]
    monkeypatch.setattr(RayProcesses, "_all", wait)
    with pytest.raises(SiloLost, match="its share of the table is lost"):
        silo.train(consortium.exchange(attempt=2))


def test_workers_end_with_the_process_that_owns_them(cluster: Any) -> None:
    @ray.remote(num_cpus=0)
    class Owner:
        def __init__(self) -> None:
            self.processes = RayProcesses(1, own=True)

        def worker(self) -> Any:
            return self.processes._workers[0]

    owner: Any = Owner.remote()
    worker = ray.get(owner.worker.remote())
    public, cores, _ = ray.get(worker.introduce.remote())
    assert len(public) == 1216 and cores >= 1
    ray.kill(owner)
    end = time.monotonic() + 60
    with pytest.raises(RayActorError):
        while time.monotonic() < end:
            ray.get(worker.introduce.remote())


def test_what_lies_in_the_object_store_is_sealed(
    own_ray: None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every object that a call passes or returns, as any process of this Ray could get it."""
    seen = list[bytes]()
    wait = RayProcesses._all

    def look(self: RayProcesses, asked: Sequence[Any], told: Any = None) -> list[Any]:
        found = wait(self, asked, told)
        seen.extend(one.tobytes() for one in found if isinstance(one, np.ndarray))
        return found

    monkeypatch.setattr(RayProcesses, "_all", look)
    consortium = Consortium(make_job(TWO))
    consortium.round(1)
    assert len(seen) > 6
    assert not [one for one in seen for text in (b"mean_radius", b'"do"', b"names") if text in one]


def test_a_csv_is_refused_before_workers_start(own_ray: None, make_job: MakeJob) -> None:
    job = make_job(TWO, "silos.alder.data=alder.csv")
    (job.folder / "alder.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="several workers cannot share it"):
        Silo(SiloSpec(job=job.job, run="run-1", name="alder", folder=str(job.folder))).inspect()

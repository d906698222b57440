"""A silo that reads its data for long says so, and is waited for; one that is silent is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import ray

from blindsum.actors import heartbeat, work
from blindsum.actors.cluster import Answered, Cluster, Died, Raised
from blindsum.actors.codec import decoded, encoded
from blindsum.actors.federation import Federation
from blindsum.actors.handles import SiloHandle
from blindsum.actors.heartbeat import MOST_DEADLINES, Heartbeats
from blindsum.actors.messages import SiloSpec
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import as_actor
from blindsum.actors.silo_messages import Inspection, Progress
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.waiting import Waiting
from blindsum.actors.work import AT_WORK_S, TOLD_S, Work
from blindsum.platform.errors import FederationError, SiloLost
from blindsum.platform.job.file import JobFile
from tests.conftest import MakeJob


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(heartbeat, "time", found)
    monkeypatch.setattr(work, "time", found)
    return found


def test_a_silo_tells_its_share_in_steps_and_for_how_long_it_is_at_work(clock: Clock) -> None:
    one = Work()
    assert one.progress() == Progress(percent=0, at_work=False)
    for share, percent in ((0.0, 0), (0.049, 0), (0.05, 5), (0.4999, 45), (0.999, 95), (1.0, 100)):
        one.step(share)
        assert one.progress() == Progress(percent=percent, at_work=True)
        clock.now += TOLD_S
    clock.now += AT_WORK_S - TOLD_S - 0.1
    assert one.progress().at_work
    clock.now += 0.2
    assert not one.progress().at_work


@pytest.mark.parametrize("records", [1_000, 41_127, 1_000_000])
def test_what_a_silo_tells_does_not_depend_on_the_number_of_its_records(
    clock: Clock, records: int
) -> None:
    """Asked after every single step, it gives the same answers: without the rounding, their number
    is that of the records."""
    one, told = Work(), set()
    for done in range(0, records + 1, max(1, records // 5000)):
        one.step(done / records)
        told.add(encoded(one.progress()))
        clock.now += TOLD_S
    assert told <= {encoded(Progress(percent=5 * i, at_work=True)) for i in range(21)}
    assert len(told) >= 20


def test_the_share_after_each_batch_is_not_told(clock: Clock) -> None:
    """The first batches double in size, 1, 2, 4, ... records: the shares after them, even in steps
    of 5 %, would tell the number of all records to a few percent, and a small one exactly."""
    for records in (3, 40, 3000):
        one, told = Work(), set()
        one.step(0.0)
        done, batch = 0, 1
        while done < records:
            done, batch = done + batch, 2 * batch
            clock.now += TOLD_S / 100
            one.step(min(1.0, done / records))
            told.add(one.progress().percent)
        assert told == {0}
        clock.now += TOLD_S
        one.step(1.0)
        assert one.progress().percent == 100


@pytest.mark.parametrize("percent", [-5, 7, 105, "five", None, 4.999])
def test_a_share_that_is_no_step_is_no_message(percent: object) -> None:
    with pytest.raises(FederationError, match="malformed Progress"):
        decoded(encoded({"percent": percent, "at_work": True}), Progress)


class Asked:
    """A cluster that notes whom it was asked to call; answers are given by the test."""

    def __init__(self) -> None:
        self.handles: list[str] = []

    def call(self, peer: str, method: str) -> list[str]:
        assert method == "progress"
        self.handles.append(f"{peer} {len(self.handles)}")
        return self.handles[-1:]


def beats_of(*names: str, told: Callable[[Mapping[str, int]], None] = lambda _: None) -> Heartbeats:
    cluster: Any = Asked()
    return Heartbeats({name: SiloHandle(name, name, cluster) for name in names}, 10.0, told)


def at_work(percent: int, working: bool = True) -> Answered:
    return Answered(encoded(Progress(percent=percent, at_work=working)))


def test_each_silo_is_asked_again_only_after_it_answered(clock: Clock) -> None:
    beats = beats_of("alder", "birch")
    assert beats.ask(["alder", "birch"]) == [], "most silos are ready before"
    clock.now += 1
    assert beats.ask(["alder", "birch"]) == ["alder 0", "birch 1"]
    clock.now += 5
    assert beats.ask(["alder", "birch"]) == ["alder 0", "birch 1"]
    beats.hear("alder 0", at_work(5))
    assert beats.ask(["alder", "birch"]) == ["birch 1"]
    clock.now += 1
    assert beats.ask(["alder", "birch"]) == ["birch 1", "alder 2"]
    assert beats.ask(["birch"]) == ["birch 1"], "one that is no longer awaited is not heard"


def test_a_silo_that_says_that_it_works_is_waited_for_and_a_silent_one_is_lost(
    clock: Clock,
) -> None:
    beats, both = beats_of("alder", "birch"), ["alder", "birch"]
    for percent in range(5, 30, 5):
        clock.now += 9
        handles = beats.ask(["alder"])
        beats.hear(handles[0], at_work(percent))
        assert beats.lost(["alder"]) == ([], 100.0)
    assert beats.lost(both) == (["birch"], 10.0)


@pytest.mark.parametrize(
    "outcome",
    [
        at_work(5, working=False),
        Answered(b"{}"),
        Answered(None),
        Answered(b'{"percent": 7, "at_work": true}'),
        Raised(ValueError("no")),
        Died(),
    ],
)
def test_an_answer_that_is_no_sign_of_work_does_not_keep_a_silo(clock: Clock, outcome: Any) -> None:
    beats = beats_of("alder")
    clock.now += 9.5
    (handle,) = beats.ask(["alder"])
    beats.hear(handle, outcome)
    assert beats.lost(["alder"])[0] == []
    clock.now += 0.5
    assert beats.lost(["alder"]) == (["alder"], 10.0)


def test_a_silo_whose_share_does_not_grow_is_lost_in_the_end(clock: Clock) -> None:
    """Its word alone must not hold up the others for ever."""
    beats, started = beats_of("alder"), clock.now
    while not (lost := beats.lost(["alder"]))[0]:
        assert clock.now < started + 1000, "it is waited for without an end"
        clock.now += 5
        (handle,) = beats.ask(["alder"])
        beats.hear(handle, at_work(50 if clock.now - started < 40 else 45))
    assert lost == (["alder"], MOST_DEADLINES * 10.0)
    assert clock.now - started == pytest.approx(5 + MOST_DEADLINES * 10.0)


def test_percents_are_told_when_they_change(clock: Clock) -> None:
    told: list[dict[str, int]] = []
    beats = beats_of("alder", "birch", told=lambda percents: told.append(dict(percents)))
    awaited = ["alder", "birch"]
    for alder, birch in ((0, 0), (5, 0), (5, 0), (5, 40), (60, 100)):
        clock.now += 1
        first, second = beats.ask(awaited)
        beats.hear(first, at_work(alder))
        beats.hear(second, at_work(birch))
        beats.ask(awaited)
    beats.ask(["alder"])
    assert told == [
        {"alder": 5},
        {"alder": 5, "birch": 40},
        {"alder": 60, "birch": 100},
        {"alder": 60},
    ]


# -- with silos --------------------------------------------------------------------------------

DEADLINE_S = 2.0


class WorkingSilo(Silo):
    """A silo that is at work for twice the deadline."""

    def inspect(self) -> Inspection:
        end, never = time.monotonic() + 2 * DEADLINE_S, threading.Event()
        while time.monotonic() < end:
            self._work.step(0.5 - (end - time.monotonic()) / (5 * DEADLINE_S))
            never.wait(0.05)
        return super().inspect()

    def process(self) -> int:
        return os.getpid()


class SilentSilo(Silo):
    """A silo that answers, but does not go on."""

    def inspect(self) -> Inspection:
        threading.Event().wait(60)
        return super().inspect()


def inspected(
    job_file: JobFile,
    cluster: Cluster,
    begun: Callable[[SiloHandle], None] = lambda _: None,
    told: Callable[[], None] = lambda: None,
) -> tuple[Inspection, list[int]]:
    """What alder answers, and the percents that it told before."""
    spec = SiloSpec(job=job_file.job, run="r", name="alder", folder=str(job_file.folder), threads=1)
    peer = cluster.start_silos({"alder": spec})["alder"]
    silo = SiloHandle("alder", peer, cluster)
    waiting = Waiting(cluster, threading.Event())
    percents: list[int] = []

    def hear(found: Mapping[str, int]) -> None:
        percents.append(found["alder"])
        told()

    try:
        waiting.settle([silo.ping()], 60)  # its process runs
        begun(silo)
        beats = Heartbeats({"alder": silo}, DEADLINE_S, hear)
        return waiting.gather_faults([silo.inspect()], "start", beats)["alder"], percents
    finally:
        silo.kill()


def test_a_silo_may_work_longer_than_the_deadline(make_job: MakeJob) -> None:
    found, percents = inspected(make_job(), ThreadCluster(WorkingSilo))
    assert found.silo == "alder"
    assert percents == sorted(set(percents)) and percents


def test_a_silo_that_answers_but_does_not_go_on_is_lost(make_job: MakeJob) -> None:
    with pytest.raises(SiloLost, match="silo 'alder': no answer within 2 s when asked to start"):
        inspected(make_job(), ThreadCluster(SilentSilo))


def test_a_run_goes_on_without_a_silent_silo(make_job: MakeJob) -> None:
    """The others' shares go on counting from where they were."""

    class Mixed(WorkingSilo):
        def inspect(self) -> Inspection:
            if self.name == "birch":
                threading.Event().wait(60)
            return super().inspect() if self.name == "alder" else Silo.inspect(self)

    job_file = make_job("quorum=2", "deadlines.start_s=8")
    told: list[Mapping[str, int]] = []
    one = Federation(job_file.job, "r", str(job_file.folder), ThreadCluster(Mixed))
    try:
        assert set(one.inspect(told.append)) == {"alder", "cedar"}
        assert set(one.lost) == {"birch"}
    finally:
        one.close()
    assert told and all(set(percents) == {"alder"} for percents in told)


@pytest.mark.usefixtures("cluster")
def test_an_actor_says_that_it_works_while_it_works(make_job: MakeJob) -> None:
    actor = as_actor(lambda: WorkingSilo, "process")
    found, percents = inspected(make_job(), RayCluster(actor))
    assert found.silo == "alder" and percents


@pytest.mark.usefixtures("cluster")
def test_a_stopped_actor_is_lost(make_job: MakeJob) -> None:
    """A process that hangs is not noticed by Ray, and says nothing."""
    processes: list[int] = []

    def begun(silo: SiloHandle) -> None:
        (handle,) = silo.cluster.call(silo.peer, "process")
        processes.append(ray.get(handle))

    def stop() -> None:
        os.kill(processes[0], signal.SIGSTOP)

    cluster = RayCluster(as_actor(lambda: WorkingSilo, "process"))
    with pytest.raises(SiloLost, match="silo 'alder': no answer within 2 s"):
        inspected(make_job(), cluster, begun, stop)

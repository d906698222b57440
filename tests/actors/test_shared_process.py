"""Simulated silos that share a process: each has its own end, its own keys and its own refusals."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.answers import value_of
from blindsum.actors.cluster import Died
from blindsum.actors.federation import Federation
from blindsum.actors.messages import SiloSpec, TrainReport
from blindsum.actors.shared_process import SharedProcess
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import CALLS
from blindsum.actors.thread_cluster import ThreadChannel, ThreadCluster
from blindsum.actors.thread_peer import Killed
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import ConsentError, FederationError, SiloLost
from tests.conftest import MakeJob

SHARED = "simulation.silos_per_process=2"


class SlowSilo(Silo):
    """A silo that may wait in a round, after it was charged, until it is woken."""

    waits = 0
    woken = threading.Event()

    def _channel(self, aggregators: Any) -> Any:
        return ThreadChannel(aggregators)

    def train(self, exchange: Exchange, *opened: object) -> TrainReport:
        if self.waits == exchange.round:
            real = self._own.trainer.train

            def train(*arguments: Any) -> Any:
                self.woken.wait(60)
                return real(*arguments)

            self._own.trainer.train = train  # type: ignore[method-assign, assignment]
        return super().train(exchange, *opened)


@dataclass(frozen=True)
class Seat:
    """A silo's place in a process."""

    process: SharedProcess
    name: str
    folder: str

    @property
    def object(self) -> Any:
        return self.process._silos[self.name].object


class SharedThreads(ThreadCluster):
    """A cluster whose processes are here, and have several silos each."""

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, Any]:
        names, found = list(specs), dict[str, Any]()
        for at in range(0, len(names), 2):
            group = names[at : at + 2]
            process = SharedProcess(SlowSilo, CALLS, specs[group[0]], group)
            folder = specs[group[0]].folder
            found |= {name: Seat(process, name, folder) for name in group}
        return found

    def call(self, peer: Any, method: str, *arguments: Any, answers: int = 1) -> list[Any]:
        if isinstance(peer, Seat):
            return [peer.process.call(peer.name, method, arguments)]
        return super().call(peer, method, *arguments, answers=answers)

    def kill(self, peer: Any) -> None:
        if isinstance(peer, Seat):
            peer.process.end(peer.name)
        else:
            super().kill(peer)


@pytest.fixture
def started(make_job: MakeJob) -> Iterator[Any]:
    made: list[Federation] = []

    def start(*overrides: str) -> Federation:
        job_file = make_job(SHARED, *overrides)
        one = Federation(job_file.job, "run", str(job_file.folder), SharedThreads())
        made.append(one)
        one.inspect()
        one.exchange_keys()
        return one

    yield start
    SlowSilo.woken.set()
    for one in made:
        one.close()
    SlowSilo.woken.clear()


def silo(one: Federation, name: str) -> Any:
    return one._silos[name].peer.object


def until(true: Any) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.01)


def test_silos_that_share_a_process_run_a_job_each_with_its_own_books(
    started: Any, tmp_path: Path
) -> None:
    one = started()
    report = one.run_round(1)
    assert report.roster == ("alder", "birch", "cedar")
    assert one._silos["alder"].peer.process is one._silos["birch"].peer.process
    assert len(set(report.ledgers.values())) == 3
    alder, birch = silo(one, "alder"), silo(one, "birch")
    assert alder._books.identity.public != birch._books.identity.public
    assert alder._keys._keys is not birch._keys._keys
    states = sorted(path.parent.name for path in tmp_path.glob("state/*/ledger.sqlite"))
    assert states == ["alder", "birch", "cedar"]


def test_a_silo_that_hangs_is_ended_alone_and_sends_nothing_more(started: Any) -> None:
    """Its process goes on, with the other silo in it."""
    one = started("quorum=2", "deadlines.round_s=3")
    adds, aggregator = [], one._aggregators[0].peer.object
    add = aggregator.add
    aggregator.add = lambda frame: adds.append(frame) or add(frame)
    hanging = silo(one, "birch")
    hanging.waits = 1
    report = one.run_round(1)
    assert report.roster == ("alder", "cedar") and report.attempt == 2 and one.lost == {"birch": 1}
    assert one.release(1, report.state_digest).round == 1  # by silos beside the one that hangs
    before, gone = len(adds), weakref.ref(hanging)
    del hanging
    SlowSilo.woken.set()
    until(lambda: gone() is None)  # with its keys
    assert len(adds) == before


def test_an_interrupted_run_goes_on_in_new_processes(started: Any) -> None:
    first = started("training.rounds=2")
    report = first.run_round(1)
    first.close()
    again = Federation(
        first.job, "run", first._silos["alder"].peer.folder, SharedThreads(), None, first.standing
    )
    again.inspect()
    again.exchange_keys()
    assert again.standing.model == report.state_digest
    assert again.run_round(2).roster == ("alder", "birch", "cedar")
    again.close()


def test_a_silo_that_was_ended_answers_nothing_and_begins_nothing(started: Any) -> None:
    one = started()
    seat, kept = one._silos["birch"].peer, silo(one, "birch")
    one._silos["birch"].kill()
    with pytest.raises(Killed):
        seat.process.call("birch", "ping", ()).result(5)
    assert kept._models and one._silos["alder"].ping().handle.result(5) is None


def test_a_shared_process_serves_only_what_a_silo_serves(started: Any) -> None:
    """Its one method takes the name of another: it must not reach what has no message."""
    process = started()._silos["alder"].peer.process
    for method in ("data", "note_refusal", "_own", "__class__"):
        with pytest.raises(FederationError, match="something that no silo does"):
            process.call("alder", method, ())


def test_a_name_that_is_not_in_the_job_starts_no_process(make_job: MakeJob) -> None:
    job_file = make_job(SHARED)
    spec = SiloSpec(job=job_file.job, run="run", name="alder", folder=str(job_file.folder))
    with pytest.raises(Exception, match="no silo 'elm'"):
        SharedProcess(SlowSilo, CALLS, spec, ["alder", "elm"])


def test_the_loss_of_a_process_names_all_silos_that_were_in_it() -> None:
    with pytest.raises(SiloLost, match="silo 'alder, birch': the process that they shared"):
        value_of(Died(together=("alder", "birch")), "alder", "train")


def test_simulated_silos_are_refused_on_an_owners_machine_before_anything_is_opened(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Whether the file is found, or the owner's agent names it."""
    owner = tmp_path / "owner" / "silo.yaml"
    owner.parent.mkdir(mode=0o700)
    owner.write_text(
        f"names: [alder]\nstate: {tmp_path}/owned\n"
        f"datasets: {{own: {{path: {tmp_path}/alder.parquet}}}}\napproved_jobs_only: false\n"
    )
    owner.chmod(0o600)
    job_file = make_job(SHARED, "silos.alder.data=own")
    spec = SiloSpec(job=job_file.job, run="run", name="alder", folder=str(job_file.folder))
    for file in (None, str(owner)):
        with pytest.raises(ConsentError, match="silo 'alder': .*owner's machine.*Leave the job's"):
            Silo(spec, file).inspect()
    assert not (tmp_path / "owned").exists()


def test_answers_of_a_silo_that_ends_are_given_up_at_once(started: Any) -> None:
    one = started("training.rounds=2")
    process = one._silos["alder"].peer.process
    first = process._silos["alder"]
    blocked = threading.Event()
    first.object.introduce = lambda: blocked.wait(60)
    waiting: Future[Any] = process.call("alder", "introduce", ())
    process.end("alder")
    with pytest.raises(Killed):
        waiting.result(5)
    blocked.set()
    assert first.join(time.monotonic() + 20)

"""Rounds on a real Ray of two nodes, and what ends them."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import ray

from blindsum.actors.aggregator import Aggregator, as_aggregator
from blindsum.actors.federation import Federation
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import as_actor
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import (
    ClusterError,
    SiloLost,
)
from blindsum.platform.job.file import JobFile
from blindsum.platform.training.vector import digest
from tests.conftest import MakeJob, ledger_of

pytestmark = pytest.mark.usefixtures("cluster")


class WatchedSilo(Silo):
    """A silo that can be told to announce its process in a FIFO and wait there for ever."""

    def process(self) -> int:
        return os.getpid()

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def stop_at(self, round: int, fifo: str, where: str = "train") -> None:
        """Stop before "train", after everything is sent ("upload"), or after the total is decrypted
        ("apply")."""
        owner, name = {
            "train": (self._own.trainer, "train"),
            "upload": (self._vault, "send"),
            "apply": (self._own.optimizer, "apply"),
        }[where]
        real = getattr(owner, name)

        def stop(*arguments: Any) -> Any:
            answer = real(*arguments) if where == "upload" else None
            if self._model.round + 1 == round:
                Path(fifo).write_text(str(os.getpid()))
                signal.pause()
            return answer if where == "upload" else real(*arguments)

        setattr(owner, name, stop)


class WatchedAggregator(Aggregator):
    """An aggregator that ends itself at a round's first attempt: before, in or after its sum."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ending = (0, "")

    def process(self) -> int:
        return os.getpid()

    def end_at(self, round: int, where: str) -> None:
        self.ending = (round, where)

    def open(self, exchange: Exchange) -> None:
        self._end("open", exchange)
        super().open(exchange)

    def add(self, frame: pa.Buffer) -> Any:
        self._end("before", self._open_sum().exchange)
        found = super().add(frame)
        self._end("in", self._open_sum().exchange)
        return found

    @ray.method(num_returns=2)
    def total(self, exchange: Exchange, *rest: Any) -> Any:
        if exchange.purpose == "metrics":
            self._end("after", exchange)
        return super().total(exchange, *rest)

    def _end(self, where: str, exchange: Exchange) -> None:
        if self.ending == (exchange.round, where):
            os.kill(os.getpid(), signal.SIGKILL)


def federation(
    job_file: JobFile, run: str, aggregator: type[Aggregator] = WatchedAggregator
) -> Federation:
    cluster = RayCluster(
        as_actor(lambda: WatchedSilo, "process", "node", "stop_at"), as_aggregator(aggregator)
    )
    return Federation(job_file.job, run, str(job_file.folder), cluster)


@pytest.fixture
def started(make_job: MakeJob, request: pytest.FixtureRequest) -> Any:
    made = []

    def start(*overrides: str, aggregator: type[Aggregator] = WatchedAggregator) -> Federation:
        one = federation(make_job(*overrides), request.node.name, aggregator)
        made.append(one)
        one.inspect()
        one.exchange_keys()
        return one

    yield start
    for one in made:
        one.close()


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def charged(one: Federation, silo: str, tmp_path: Path) -> list[tuple[int, int]]:
    """Rounds and attempts in a silo's ledger, which is verified on the way."""
    entries = ledger_of(tmp_path / "state" / silo, silo).entries()
    return [(e.round, e.attempt) for e in entries if e.kind == "charge"]


def killing(fifo: str) -> threading.Thread:
    """Kills the process that announces itself there."""

    def watch() -> None:
        os.kill(int(Path(fifo).read_text()), signal.SIGKILL)

    killer = threading.Thread(target=watch, daemon=True)
    killer.start()
    return killer


def test_a_run_survives_processes_that_are_killed_and_ends_below_its_quorum(
    started: Any, tmp_path: Path, fifo: str
) -> None:
    """An aggregator in the middle of its sum, a silo with everything sent, and a silo that never
    answers. `tests/actors/test_failures.py` has every other place where things can be lost."""
    one = started("quorum=2", "training.rounds=9", "deadlines.round_s=30")
    nodes = {name: ray.get(silo.peer.node.remote()) for name, silo in one._silos.items()}
    assert nodes["alder"] == nodes["birch"] != nodes["cedar"]
    ray.get(one._aggregators[0].peer.end_at.remote(1, "in"))
    report = one.run_round(1)
    assert report.attempt == 2 and len(report.roster) == 3 and not one.lost
    ray.get(one._silos["birch"].peer.stop_at.remote(2, fifo))
    killer = killing(fifo)
    last = one.run_round(2)
    killer.join()
    assert last.attempt == 2 and last.roster == one.roster == ("alder", "cedar")
    assert one.lost == {"birch": 2} and one.retries == 2
    assert charged(one, "alder", tmp_path) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert charged(one, "birch", tmp_path)[-1] == (2, 1)
    ray.get(one._silos["cedar"].peer.stop_at.remote(3, fifo, "train"))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    deadlines = one.job.deadlines.model_copy(update={"round_s": 2.0})
    one.job = one.job.model_copy(update={"deadlines": deadlines})
    with pytest.raises(SiloLost, match="silo 'cedar', round 3: no answer within 2 s"):
        one.run_round(3)
    release = one.release(2, last.state_digest)  # the other is not stuck behind it
    assert digest(release.vector) == last.model_digest
    os.close(reader)


def test_a_silo_without_its_node_is_said_at_once(make_job: MakeJob) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="no live node offers silo:rowan"):
        federation(make_job("silos.birch.name=rowan"), "run")
    assert time.monotonic() - started < 5

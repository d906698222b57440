"""Rounds on a real Ray of two nodes, and what ends them."""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray

from blindsum.actors.aggregator import Aggregator, as_aggregator
from blindsum.actors.federation import Federation
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import as_actor
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import (
    AggregatorLost,
    ClusterError,
    DataError,
    FederationError,
    ModelsDiffer,
    SiloLost,
    TotalRefused,
)
from blindsum.platform.job.file import JobFile
from blindsum.platform.training.models import digest
from tests.conftest import MakeJob, ledger_of
from tests.he.test_upload import shift

pytestmark = pytest.mark.usefixtures("cluster")


class WatchedSilo(Silo):
    """A silo that can be told to announce its process in a FIFO and wait there for ever."""

    def process(self) -> int:
        return os.getpid()

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def stop_at(self, round: int, fifo: str, where: str = "train") -> None:
        """Where: "train" before it, "upload" with everything sent, "apply" with the total opened."""
        owner, name = {
            "train": (self._trainer, "train"),
            "upload": (self._vault, "send"),
            "apply": (self._optimizer, "apply"),
        }[where]
        real = getattr(owner, name)

        def stop(*arguments: Any) -> Any:
            answer = real(*arguments) if where == "upload" else None
            if self._round + 1 == round:
                Path(fifo).write_text(str(os.getpid()))
                signal.pause()
            return answer if where == "upload" else real(*arguments)

        setattr(owner, name, stop)

    def fill_the_disk(self) -> None:
        """No file of this process grows any more."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    def spoil(self, round: int) -> None:
        """What leaves in that round is damaged on its way."""
        channel: Any = self._vault._channel  # type: ignore[union-attr]
        real = channel.send

        def send(aggregator: int, frame: pa.Buffer) -> None:
            content = bytearray(frame.to_pybytes())
            content[len(content) // 2] ^= self._round + 1 == round
            real(aggregator, pa.py_buffer(bytes(content)))

        channel.send = send

    def drift(self) -> None:
        self._global = self._global + 1


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
        self._end("before", self._open_exchange())
        found = super().add(frame)
        self._end("in", self._open_exchange())
        return found

    @ray.method(num_returns=2)
    def total(self, exchange: Exchange, *rest: Any) -> Any:
        if exchange.purpose == "metrics":
            self._end("after", exchange)
        return super().total(exchange, *rest)

    def _end(self, where: str, exchange: Exchange) -> None:
        if self.ending == (exchange.round, where):
            os.kill(os.getpid(), signal.SIGKILL)


class ScalingAggregator(Aggregator):
    """Multiplies the sums of a few attempts by eight."""

    @ray.method(num_returns=2)
    def total(self, exchange: Exchange, *rest: Any) -> Any:
        if (exchange.round, exchange.attempt) in ((2, 1), (4, 1), (4, 2)):
            adder: Any = self._sum.adder
            for ciphertext in adder._sums.values():
                for _ in range(3):
                    adder._evaluator.add_inplace(ciphertext, ciphertext)
        return super().total(exchange, *rest)


class AddingAggregator(WatchedAggregator):
    """In round 3, adds a plaintext of its own choice to the sum: no silo can see it there."""

    @ray.method(num_returns=2)
    def total(self, exchange: Exchange, *rest: Any) -> Any:
        if exchange.round == 3 and self._index == 0:
            shift(self._sum.adder)  # type: ignore[arg-type]
        return super().total(exchange, *rest)


def federation(
    job_file: JobFile, run: str, aggregator: type[Aggregator] = WatchedAggregator
) -> Federation:
    return Federation(
        job_file.job, run, str(job_file.folder), as_actor(WatchedSilo), as_aggregator(aggregator)
    )


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


def test_rounds_on_two_nodes_agree_improve_and_are_charged(started: Any) -> None:
    """A refused total ends the attempt and the keys, and not the run; a second one ends it."""
    one = started(
        "training.rounds=7",
        "privacy.epsilon=50",
        "training.learning_rate=2",
        aggregator=ScalingAggregator,
    )
    nodes = {name: ray.get(silo.node.remote()) for name, silo in one._silos.items()}
    assert nodes["alder"] == nodes["birch"] != nodes["cedar"]
    ledgers = {name: i.ledger for name, i in one.inspect().items()}
    reports = [one.run_round(number) for number in (1, 2, 3)]
    assert [report.attempt for report in reports] == [1, 2, 1] and one.retries == 1
    first, last = reports[0].metrics.held_out, reports[-1].metrics.held_out
    assert last.loss < first.loss and last.accuracy > last.largest_class
    assert one.release(3, reports[-1].model_digest).round == 3
    assert reports[0].up_bytes > 3 * 2 * 30_000 and reports[0].down_bytes > 4 * 60_000
    expected = {"charge", "train", "send", "add", "total", "decrypt", "apply", "metrics"}
    assert set(reports[0].phases) == expected and all(v >= 0 for v in reports[0].phases.values())
    for name, path in ledgers.items():
        entries = ledger_of(Path(path).parent, name).entries()  # verifies the chain
        charges = [entry for entry in entries if entry.kind == "charge"]
        assert [(e.round, e.attempt) for e in charges] == [(1, 1), (2, 1), (2, 2), (3, 1)]
        kept = [charges[0], charges[2], charges[3]]
        assert [e.epsilon for e in kept] == [report.epsilon[name] for report in reports]
    with pytest.raises(TotalRefused, match="round 4: the total is .*nothing was released"):
        one.run_round(4)
    one.exchange_keys()
    ray.get(one._silos["alder"].drift.remote())
    with pytest.raises(ModelsDiffer, match="round 4"):
        one._attempt(4, 3)


def charged(one: Federation, silo: str, tmp_path: Path) -> list[tuple[int, int]]:
    """Rounds and attempts in a silo's ledger, which is verified on the way."""
    entries = ledger_of(tmp_path / "state" / silo, silo).entries()
    return [(e.round, e.attempt) for e in entries if e.kind == "charge"]


def killing(fifo: str, others: Sequence[int] = ()) -> threading.Thread:
    """Kills the process that announces itself there, and others with it."""

    def watch() -> None:
        for process in {int(Path(fifo).read_text()), *others}:
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=watch, daemon=True)
    killer.start()
    return killer


def test_a_run_goes_on_without_whatever_is_lost_down_to_its_quorum(
    started: Any, breast_cancer: pa.Table, tmp_path: Path, fifo: str
) -> None:
    """Aggregators before, in and after their sums; silos before training, with everything sent, with the
    total opened, with a full disk, a spoiled
    upload, too slow: each for real, one a round. Every attempt is charged."""
    names = ("alder", "birch", "cedar", "elm", "fir", "gum", "hazel", "oak")
    for i, name in enumerate(names):
        rows = breast_cancer.take(np.arange(i * 71, (i + 1) * 71))
        pyarrow.parquet.write_table(rows, tmp_path / f"{name}.parquet")
    silos = [
        {"name": n, "data": f"{n}.parquet", "state": str(tmp_path / "state" / n)} for n in names
    ]
    one = started(
        f"silos={json.dumps(silos)}",
        "quorum=2",
        "training.rounds=30",
        "deadlines.round_s=30",
        "encryption.aggregators=1",
    )
    # in round 1 no silo has charged yet: its plan must not be reserved again
    for round, where in ((1, "open"), (2, "before"), (3, "in"), (4, "after")):
        ray.get(one._aggregators[0].end_at.remote(round, where))
        report = one.run_round(round)
        assert report.attempt == 2 and report.roster == names and not one.lost
    left = list(names)
    for round, silo, where in ((5, "birch", "train"), (6, "cedar", "upload")):
        ray.get(one._silos[silo].stop_at.remote(round, fifo, where))
        killer = killing(fifo)
        report = one.run_round(round)
        killer.join()
        left.remove(silo)
        assert report.attempt == 2 and report.roster == one.roster == tuple(left)
        assert one.lost[silo] == round and set(report.epsilon) == set(left)
    # Two that die together leave together: a roster shrinks once a round.
    processes = ray.get([one._silos[name].process.remote() for name in ("elm", "gum")])
    ray.get(one._silos["elm"].stop_at.remote(7, fifo, "apply"))
    killer = killing(fifo, processes)
    report = one.run_round(7)
    killer.join()
    assert report.attempt == 2 and report.roster == ("alder", "fir", "hazel", "oak")
    assert one.lost["elm"] == one.lost["gum"] == 7
    ray.get(one._silos["fir"].fill_the_disk.remote())
    report = one.run_round(8)
    assert report.roster == ("alder", "hazel", "oak") and one.lost["fir"] == 8
    ray.get(one._silos["oak"].spoil.remote(9))
    report = one.run_round(9)
    assert report.roster == ("alder", "hazel") and one.lost["oak"] == 9 and one.retries == 9
    for silo in ("alder", "hazel"):
        assert charged(one, silo, tmp_path) == [
            (1, 2),
            *((n, a) for n in range(2, 10) for a in (1, 2)),
        ]
    assert charged(one, "birch", tmp_path)[-1] == (5, 1) != charged(one, "fir", tmp_path)[-1]
    _ends_below_its_quorum(one, fifo)


def _ends_below_its_quorum(one: Federation, fifo: str) -> None:
    last = one.run_round(10)
    ray.get(one._silos["hazel"].stop_at.remote(11, fifo))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    begun = time.monotonic()
    one.job = one.job.model_copy(
        update={"deadlines": one.job.deadlines.model_copy(update={"round_s": 2.0})}
    )
    with pytest.raises(SiloLost, match="silo 'hazel', round 11: no answer within 2 s"):
        one.run_round(11)
    assert time.monotonic() - begun < 20
    release = one.release(10, last.model_digest)  # the other is not stuck behind it
    assert digest(release.vector) == last.model_digest
    with pytest.raises(FederationError, match="no silo is left to give the model after round 11"):
        one.release(11, last.model_digest, timeout_s=1)
    # A KeyboardInterrupt swallowed by some destructor must not leave the run waiting either.
    one._waiting._interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        one._waiting.gather({"hazel": one._silos["hazel"].node.remote()}, "answer", 600)
    os.close(reader)


def test_a_large_model_is_summed_by_two_verified_aggregators_at_an_adapted_range(
    started: Any,
) -> None:
    """Until one of them adds to every sum, which ends the run; and then it dies."""
    one = started(
        "model={kind: mlp, hidden: [1000, 900]}",
        "encryption.bits=12",
        "encryption.verify=keep",
        "encryption.aggregators=2",
        "encryption.range=100",
        "privacy={noise: none}",
        "training.local_steps=1",
        aggregator=AddingAggregator,
    )
    reports = [one.run_round(number) for number in (1, 2)]
    assert [report.range for report in reports] == [100, 50]
    assert reports[0].metrics.large == 0 and len(one._aggregators) == 2
    assert reports[0].up_bytes < 3 * 2.75 * 907_702
    with pytest.raises(TotalRefused, match="round 3: .*again under new keys: an aggregator alters"):
        one.run_round(3)
    one.exchange_keys()
    os.kill(ray.get(one._aggregators[0].process.remote()), signal.SIGKILL)
    with pytest.raises(AggregatorLost, match="aggregator 1 of 2's process died"):
        one._attempt(3, 3)
    assert one.release(2, reports[1].model_digest).round == 2
    with pytest.raises(FederationError, match="no silo is left"):
        one.release(2, "a digest that the silos did not agree on")


def test_a_silo_without_its_node_is_said_at_once(make_job: MakeJob) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="no live node offers silo:rowan"):
        federation(make_job("silos.birch.name=rowan"), "run")
    assert time.monotonic() - started < 5


def test_a_silo_whose_data_is_wrong_is_named_and_its_values_stay_there(
    make_job: MakeJob, tables: dict[str, Path], cluster: Any
) -> None:
    """Neither the message nor any of Ray's logs holds a value of the data."""
    canary = "CANARY5e1f"
    smiles = [f"C1{canary}"] + ["C" * (i + 1) for i in range(99)]
    for path in tables.values():
        pyarrow.parquet.write_table(
            pa.table({"smiles": smiles, "patient": range(100), "diagnosis": ["benign"] * 100}), path
        )
    one = federation(make_job("data.features={kind: ecfp, bits: 64}"), "run")
    with pytest.raises(DataError, match="molecules that RDKit cannot read") as caught:
        one.inspect()
    one.close()
    assert caught.value.silo in one.job.roster and canary not in str(caught.value)
    logs = list(Path(ray._private.worker._global_node.get_logs_dir_path()).rglob("*"))
    assert len(logs) > 5
    assert not any(canary.encode() in log.read_bytes() for log in logs if log.is_file())

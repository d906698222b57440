"""What a run survives and what ends it: silos and aggregators as threads, without Ray's seconds.

`tests/actors/test_federation.py` has the same federation on a real Ray of two nodes.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from blindsum.actors.aggregator import Aggregator
from blindsum.actors.codec import encoded
from blindsum.actors.federation import Federation
from blindsum.actors.messages import TrainReport
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.thread_peer import Killed, ThreadPeer
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import (
    AggregatorLost,
    FederationError,
    ModelsDiffer,
    SiloLost,
    TotalRefused,
    Unexpected,
)
from blindsum.platform.training.vector import digest
from tests.actors.workers.local_processes import LocalProcesses, processes
from tests.conftest import MakeJob, ledger_of
from tests.he.test_upload import shift

__all__ = ["processes"]  # a fixture

NAMES = ("alder", "birch", "cedar", "elm", "fir", "gum", "hazel", "oak")


class FailingSilo(Silo):
    """A silo that fails at one place of one round: `fails` holds the round and how."""

    fails: tuple[int, str] = (0, "")
    other: ThreadPeer | None = None
    woken = threading.Event()

    def train(self, exchange: Exchange, *opened: object) -> TrainReport:
        if self.fails == (exchange.round, "before it trains"):
            raise Killed
        if self.fails == (exchange.round, "its disk is full"):
            self._books.ledger.chain.db.execute("PRAGMA query_only = 1")
        if self.fails == (exchange.round, "its upload is damaged"):
            self._damage()
        if self.fails == (exchange.round, "it never answers"):
            self.woken.wait(60)
        if self.fails == (exchange.round, "a fault of ours"):
            self._own.trainer.train = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        report = super().train(exchange, *opened)
        if self.fails == (exchange.round, "with everything sent"):
            raise Killed
        return report

    def apply(self, exchange: Exchange, *rest: Any) -> Any:
        report = super().apply(exchange, *rest)
        if self.fails == (exchange.round, "with another, the total opened"):
            if self.other:
                self.other.die()
            raise Killed
        return report

    def _damage(self) -> None:
        channel: Any = self._keys._channel
        real = channel.send

        def send(aggregator: int, frame: pa.Buffer) -> None:
            content = bytearray(frame.to_pybytes())
            content[len(content) // 2] ^= 1
            real(aggregator, pa.py_buffer(bytes(content)))

        channel.send = send


class FailingAggregator(Aggregator):
    """An aggregator that dies at one place of a round, or alters some sums."""

    dies: tuple[int, str] = (0, "")
    alters: tuple[tuple[int, int], ...] = ()
    adds = 0

    def open(self, exchange: Exchange) -> None:
        self._die("open", exchange)
        super().open(exchange)

    def add(self, frame: pa.Buffer) -> Any:
        self._die("before", self._open_sum().exchange)
        report = super().add(frame)
        self._die("in", self._open_sum().exchange)
        return report

    def total(self, exchange: Exchange, *rest: Any) -> Any:
        self._die("after", exchange)
        if (exchange.round, exchange.attempt) in self.alters:
            adder: Any = self._sum.adder
            for ciphertext in adder._sums.values():
                for _ in range(6):  # 64 times the sum
                    adder._evaluator.add_inplace(ciphertext, ciphertext)
        if exchange.round == self.adds and self._index == 0:
            shift(self._sum.adder)  # type: ignore[arg-type]
        return super().total(exchange, *rest)

    def _die(self, where: str, exchange: Exchange) -> None:
        if self.dies == (exchange.round, where):
            raise Killed


@pytest.fixture
def started(make_job: MakeJob, tmp_path: Path) -> Iterator[Any]:
    made: list[Federation] = []

    def start(*overrides: str) -> Federation:
        job_file = make_job(*overrides)
        cluster = ThreadCluster(FailingSilo, FailingAggregator)
        one = Federation(job_file.job, "run", str(job_file.folder), cluster)
        made.append(one)
        one.inspect()
        one.exchange_keys()
        return one

    yield start
    FailingSilo.woken.set()
    for one in made:
        one.close()
    FailingSilo.woken.clear()


@pytest.mark.parametrize("step", ["inspect", "introduce", "contribute", "agree", "finish"])
def test_the_others_go_on_without_a_silo_that_dies_before_the_first_round(
    make_job: MakeJob, step: str
) -> None:
    class Dying(Silo):
        def _die(self, *arguments: Any) -> Any:
            if self.name == "birch":
                raise Killed
            return getattr(super(), step)(*arguments)

    silo = type("Silo", (Dying,), {step: Dying._die})
    job_file = make_job("quorum=2")
    one = Federation(job_file.job, "run", str(job_file.folder), ThreadCluster(silo))
    one.inspect()
    one.exchange_keys()
    report = one.run_round(1)
    one.close()
    assert report.roster == ("alder", "cedar")
    assert dict(one.lost) == {"birch": 0}


@pytest.mark.parametrize("step", ["inspect", "agree"])
def test_a_run_ends_if_the_quorum_is_gone_before_the_first_round(
    make_job: MakeJob, step: str
) -> None:
    class Dying(Silo):
        def _die(self, *arguments: Any) -> Any:
            if self.name != "alder":
                raise Killed
            return getattr(super(), step)(*arguments)

    silo = type("Silo", (Dying,), {step: Dying._die})
    job_file = make_job("quorum=2")
    one = Federation(job_file.job, "run", str(job_file.folder), ThreadCluster(silo))
    with pytest.raises(SiloLost):
        one.inspect()
        one.exchange_keys()
    one.close()


@pytest.fixture
def eight(breast_cancer: pa.Table, tmp_path: Path) -> str:
    """Eight silos, as a job's override."""
    for i, name in enumerate(NAMES):
        rows = breast_cancer.take(np.arange(i * 71, (i + 1) * 71))
        pyarrow.parquet.write_table(rows, tmp_path / f"{name}.parquet")
    silos = [
        {"name": n, "data": f"{n}.parquet", "state": str(tmp_path / "state" / n)} for n in NAMES
    ]
    return f"silos={json.dumps(silos)}"


def silo(one: Federation, name: str) -> Any:
    return one._silos[name].peer.object


def aggregator(one: Federation, index: int = 0) -> Any:
    return one._aggregators[index].peer.object


def charged(silo: str, tmp_path: Path) -> list[tuple[int, int]]:
    """Rounds and attempts in a silo's ledger, which is verified on the way."""
    entries = ledger_of(tmp_path / "state" / silo, silo).entries()
    return [(e.round, e.attempt) for e in entries if e.kind == "charge"]


def test_a_silo_is_dropped_with_a_worker_that_dies(
    started: Any, processes: dict[str, LocalProcesses], tmp_path: Path
) -> None:
    one = started("quorum=2", "silos.birch.workers=2", "training.rounds=4")
    one.run_round(1)

    def die(*_: Any) -> list[bytes]:
        raise SiloLost("its worker 2 of 2 died")

    processes["birch"].ask = die  # type: ignore[method-assign]
    report = one.run_round(2)
    assert report.attempt == 2 and report.roster == ("alder", "cedar")
    assert dict(one.lost) == {"birch": 2} and one.run_round(3).attempt == 1
    assert charged("birch", tmp_path) == [(1, 1), (2, 1)]
    assert charged("alder", tmp_path) == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_a_run_continues_without_whatever_is_lost(started: Any, eight: str, tmp_path: Path) -> None:
    """Aggregators fail before, in and after their sums; silos before training, with everything
    sent, with the total decrypted, with a full disk, with a damaged upload. One fails in a round,
    and every attempt is charged."""
    one = started(eight, "quorum=2", "training.rounds=30", "encryption.aggregators=1")
    for round, where in ((1, "open"), (2, "before"), (3, "in"), (4, "after")):
        aggregator(one).dies = (round, where)
        report = one.run_round(round)
        assert report.attempt == 2 and report.roster == NAMES and not one.lost, where
    left = list(NAMES)
    for round, name, how in (
        (5, "birch", "before it trains"),
        (6, "cedar", "with everything sent"),
        (8, "fir", "its disk is full"),
        (9, "oak", "its upload is damaged"),
    ):
        if round == 8:
            _two_that_die_together_leave_together(one)
            left = ["alder", "fir", "hazel", "oak"]
        silo(one, name).fails = (round, how)
        report = one.run_round(round)
        left.remove(name)
        assert report.attempt == 2 and report.roster == one.roster == tuple(left), how
        assert one.lost[name] == round and set(report.epsilon) == set(left)
    assert one.retries == 9
    for name in ("alder", "hazel"):
        first = [(1, 2)]  # no silo had charged the first attempt: its aggregator was gone before
        assert charged(name, tmp_path) == first + [(n, a) for n in range(2, 10) for a in (1, 2)]
    assert charged("birch", tmp_path)[-1] == (4, 2)
    assert charged("cedar", tmp_path)[-1] == (6, 1)


def _two_that_die_together_leave_together(one: Federation) -> None:
    """A roster shrinks once a round."""
    silo(one, "elm").other = one._silos["gum"].peer
    silo(one, "elm").fails = (7, "with another, the total opened")
    report = one.run_round(7)
    assert report.attempt == 2 and report.roster == ("alder", "fir", "hazel", "oak")
    assert one.lost["elm"] == one.lost["gum"] == 7


def test_a_late_silo_ends_a_run_at_its_quorum_and_the_model_is_still_there(started: Any) -> None:
    one = started("deadlines.round_s=1")
    last = one.run_round(1)
    silo(one, "cedar").fails = (2, "it never answers")
    begun = time.monotonic()
    with pytest.raises(SiloLost, match="silo 'cedar', round 2: no answer within 1 s"):
        one.run_round(2)
    assert time.monotonic() - begun < 20
    assert digest(one.release(1, last.state_digest).vector) == last.model_digest
    with pytest.raises(FederationError, match="no silo is left that has the model after round 2"):
        one.release(2, last.state_digest, timeout_s=1)
    # A KeyboardInterrupt swallowed by some destructor must not leave the run waiting either.
    one._waiting._interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        one._waiting.gather([one._silos["cedar"].restore(0)], "answer", 600)


def test_a_refused_total_ends_the_attempt_and_a_second_one_the_run(started: Any) -> None:
    one = started("training.rounds=7", "privacy.epsilon=50", "training.learning_rate=2")
    aggregator(one).alters = ((2, 1), (4, 2), (4, 3))
    reports = [one.run_round(number) for number in (1, 2, 3)]
    assert [report.attempt for report in reports] == [1, 2, 1] and one.retries == 1
    first, last = reports[1].before.held_out, one.evaluate().held_out
    assert last.loss < first.loss and last.accuracy > last.largest_class
    with pytest.raises(TotalRefused, match="round 4: the total is .*nothing was released"):
        one.run_round(4)


def test_two_verified_aggregators_adapt_the_range_until_one_adds_to_its_sum(
    started: Any,
) -> None:
    """It adds a plaintext of its own choice, which no silo can see there; and then it dies."""
    one = started(
        "model={kind: mlp, hidden: [1000, 900]}",
        "encryption.bits=12",
        "encryption.verify=keep",
        "encryption.aggregators=2",
        "encryption.range=100",
        "privacy={noise: none}",
        "training.local_steps=1",
    )
    for index in (0, 1):
        aggregator(one, index).adds = 3
    reports = [one.run_round(number) for number in (1, 2)]
    assert [report.range for report in reports] == [100, 50]
    assert reports[0].metrics.large == 0 and len(one._aggregators) == 2
    assert reports[0].up_bytes < 3 * 2.05 * 907_702
    with pytest.raises(TotalRefused, match="round 3: .*again under new keys: an aggregator alters"):
        one.run_round(3)
    one.exchange_keys()
    one._aggregators[0].kill()
    with pytest.raises(AggregatorLost, match="aggregator 1 of 2's process died"):
        one._attempt(3, 3)
    assert one.release(2, reports[1].state_digest).round == 2
    with pytest.raises(FederationError, match="no silo is left"):
        one.release(2, "a digest that the silos did not agree on")


def test_silos_whose_models_differ_end_the_run(started: Any) -> None:
    one = started()
    one.run_round(1)
    drifted = silo(one, "alder")
    real = drifted._prepared.optimizer.apply
    drifted._prepared.optimizer.apply = lambda *given: real(*given) + 1
    with pytest.raises(ModelsDiffer, match="round 2"):
        one.run_round(2)


def test_a_fault_of_ours_is_said_to_be_one_and_names_the_silo(started: Any) -> None:
    one = started()
    silo(one, "birch").fails = (1, "a fault of ours")
    with pytest.raises(
        Unexpected, match="silo 'birch', round 1: .*ZeroDivisionError.*please report"
    ):
        one.run_round(1)


def test_an_answer_of_another_kind_names_the_silo_and_is_not_dropped(started: Any) -> None:
    """Agreement among the rest would be agreement without one of the silos."""
    one = started()
    silo(one, "birch").apply = lambda *_: b'{"silo": "birch"}'
    with pytest.raises(
        FederationError, match="'birch' was asked to apply the total, and its answer is not"
    ):
        one.run_round(1)


def test_a_silo_is_asked_in_order_and_says_where_it_stands(started: Any) -> None:
    one = started()
    one.run_round(1)
    birch = one._silos["birch"]
    with pytest.raises(
        FederationError, match="asked to restore, but no exchange of its own is open"
    ):
        one._waiting.gather([birch.restore(1)], "restore", 5)
    with pytest.raises(FederationError, match="asked to inspect, but"):
        one._waiting.gather([birch.inspect()], "inspect", 5)
    with pytest.raises(FederationError, match="asked to agree, but"):
        one._waiting.gather([birch.agree(encoded(()))], "agree", 5)
    assert one.run_round(2).attempt == 1, "a refused call leaves the silo as it was"

"""Silos that were lost and come back into the next round: silos and aggregators as threads."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from blindsum.actors.codec import decoded, encoded
from blindsum.actors.federation import Federation
from blindsum.actors.returning import state_for_another
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.thread_peer import Killed
from blindsum.he.exchange import Exchange
from blindsum.he.handover import Handover, StateRequest, seal_to
from blindsum.he.identity import SIGNATURE_BYTES, Identity, fingerprint
from blindsum.platform.errors import FederationError, KeyRefused
from blindsum.platform.state.checkpoint import from_bytes, to_bytes
from blindsum.platform.training.average import Averaged
from tests.conftest import SILOS, MakeJob

MOMENTUM = (
    "server.optimizer=momentum",
    "server.learning_rate=0.5",
    "quorum=2",
    "training.rounds=20",
)


class Dying(Silo):
    """A silo that dies once, at one place of one round. One that comes back may boast."""

    dies: ClassVar[dict[str, tuple[int, str]]] = {}
    boasts: ClassVar[bool] = False

    def inspect(self) -> Any:
        said = super().inspect()
        return replace(said, parameters=2**40) if self.boasts and self._spec.resumed else said

    def train(self, exchange: Exchange, *opened: object) -> Any:
        self.newest = exchange
        self._die(exchange, "train")
        return super().train(exchange, *opened)

    def apply(self, exchange: Exchange, *rest: Any) -> Any:
        report = super().apply(exchange, *rest)
        self._die(exchange, "apply")
        return report

    def _die(self, exchange: Exchange, where: str) -> None:
        if self.dies.get(self.name) == (exchange.round, where):
            del self.dies[self.name]
            raise Killed


@pytest.fixture
def started(make_job: MakeJob) -> Iterator[Any]:
    made: list[Federation] = []

    def start(*overrides: str, **dies: tuple[int, str]) -> tuple[Federation, ThreadCluster]:
        Dying.dies = dict(dies)
        job_file = make_job(*overrides)
        cluster = ThreadCluster(Dying)
        one = Federation(job_file.job, "run", str(job_file.folder), cluster)
        made.append(one)
        one.inspect()
        one.exchange_keys()
        return one, cluster

    yield start
    Dying.dies = {}
    for one in made:
        one.close()


def arrive(one: Federation, name: str) -> None:
    """Let a round pass so that a lost silo starts, and wait until it has checked its data."""
    one._readmit()
    _, reply = one._returns._starting[name]
    end = time.monotonic() + 30
    while not one._cluster.wait([reply.handle], 1, 1.0):
        assert time.monotonic() < end


@pytest.mark.parametrize("where", ["train", "apply"])
def test_a_lost_silo_comes_back_into_the_next_round(started: Any, where: str) -> None:
    one, cluster = started(*MOMENTUM, birch=(2, where))
    reports = [one.run_round(1), one.run_round(2)]
    assert reports[1].roster == ("alder", "cedar")
    reports.append(one.run_round(3))
    cluster.returning = {"birch"}
    arrive(one, "birch")
    for number in (4, 5):
        reports.append(one.run_round(number))
        assert reports[-1].roster == ("alder", "birch", "cedar")
        assert reports[-1].before.held_out is not None
        assert set(reports[-1].epsilon) == {"alder", "birch", "cedar"}
    assert dict(one.lost) == {}
    kept = [one._silos[name].peer.object._model for name in one.roster]
    assert len({state.digest for state in kept}) == 1
    assert all(np.array_equal(a.optimizer[0], kept[0].optimizer[0]) for a in kept)
    assert all(np.array_equal(a.average.shared, kept[0].average.shared) for a in kept)
    assert not np.array_equal(kept[0].average.shared, kept[0].vector)
    spent = reports[-1].epsilon
    assert spent["birch"] < spent["alder"]  # it missed a round, or an attempt of one


def test_a_silo_that_says_another_size_of_the_model_does_not_come_back(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, cluster = started(*MOMENTUM, birch=(1, "train"))
    one.run_round(1)
    cluster.returning = {"birch"}
    monkeypatch.setattr(Dying, "boasts", True)
    arrive(one, "birch")
    assert one.run_round(2).roster == ("alder", "cedar")


def test_a_silo_with_its_own_current_state_needs_no_other(started: Any) -> None:
    one, cluster = started(*MOMENTUM)
    one.run_round(1)
    one.run_round(2)
    one._drop("cedar", 2)
    cluster.returning = {"cedar"}
    arrive(one, "cedar")
    assert one.run_round(3).roster == ("alder", "birch", "cedar")


def test_a_silo_that_keeps_dying_comes_back_five_times(started: Any) -> None:
    one, cluster = started(*MOMENTUM)
    cluster.returning = {"birch"}
    one.run_round(1)
    for time_ in range(5):
        one._drop("birch", one.standing.round)
        arrive(one, "birch")
        assert one.run_round(2 + time_).roster == ("alder", "birch", "cedar")
    one._drop("birch", one.standing.round)
    one._readmit()
    assert not one._returns._starting


def test_a_return_that_fails_costs_the_run_nothing(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, cluster = started(*MOMENTUM, birch=(2, "train"))
    one.run_round(1)
    one.run_round(2)
    cluster.returning = {"birch"}
    arrive(one, "birch")
    cluster.returning = set()
    monkeypatch.setattr("blindsum.actors.returning.to_bytes", lambda _: b"not a state")
    report = one.run_round(3)
    assert report.roster == ("alder", "cedar") and dict(one.lost) == {"birch": 2}


def test_within_a_round_no_silo_comes_back(started: Any) -> None:
    """The difference of two attempts' sums would be that of the silo's updates."""
    one, _ = started(*MOMENTUM)
    one.run_round(1)
    silo = one._silos["alder"].peer.object
    policy = silo._own.policy
    assert policy.allows_ceremony(("alder", "birch"))
    policy.course = replace(policy.course, roster=("alder", "birch"))
    assert policy.allows_ceremony(("alder", "birch", "cedar"))
    assert not policy.allows_ceremony(("alder", "cedar", "birch"))
    assert not policy.allows_ceremony(("birch", "cedar"))
    assert not policy.allows_ceremony(("alder",))
    policy.takes(silo.newest)  # an attempt of the next round begins
    policy.course = replace(policy.course, roster=("alder", "birch"))
    assert not policy.allows_ceremony(("alder", "birch", "cedar"))
    assert policy.allows_ceremony(("alder", "birch"))


def test_a_state_is_sealed_to_silos_of_the_run_alone(started: Any, tmp_path: Any) -> None:
    one, _ = started(*MOMENTUM)
    one.run_round(1)
    peer = one._silos["alder"].peer.object
    stranger = Identity(tmp_path / "stranger.pem")
    for run, silo in (("run", "birch"), ("other", "birch")):
        asked = Handover(run, silo, stranger).request
        with pytest.raises(KeyRefused, match="not from a silo"):
            peer.seal_state(encoded(asked))
    own = one._silos["birch"].peer.object._books.identity
    asked = Handover("run", "birch", own).request
    forged = StateRequest(
        run="run",
        silo="birch",
        identity=asked.identity,
        mlkem=Handover("run", "birch", stranger).request.mlkem,
        x25519=asked.x25519,
        signature=asked.signature,
    )
    with pytest.raises(KeyRefused, match="does not verify"):
        peer.seal_state(encoded(forged))
    assert len(peer.seal_state(encoded(asked))) > 0


def test_a_silo_takes_over_only_what_it_requested(started: Any, make_job: MakeJob) -> None:
    one, cluster = started(*MOMENTUM, birch=(1, "train"))
    one.run_round(1)
    cluster.returning = {"birch"}
    arrive(one, "birch")
    silo = one._returns._starting["birch"][0].peer.object
    with pytest.raises(FederationError, match="did not request"):
        silo.take_state([pa.py_buffer(b"x")])
    identity = one._silos["alder"].peer.object._books.identity
    request = decoded(silo.request_state(), StateRequest)
    with pytest.raises(KeyRefused, match="not sealed to this silo"):
        silo.take_state([pa.py_buffer(b"x" * 2000)])
    decoded(silo.request_state(), StateRequest)
    with pytest.raises(KeyRefused, match="not sealed to this silo"):
        silo.take_state([pa.py_buffer(seal_to(request, b"x", identity))])  # an earlier request
    fresh = one._silos["alder"].peer.object
    with pytest.raises(FederationError):
        fresh.request_state()


def test_nobody_but_a_silo_of_the_run_makes_up_a_state(tmp_path: Path) -> None:
    """A driver that could would plant weights that separate single records."""
    names = ("alder", "birch", "driver")
    alder, birch, driver = (Identity(tmp_path / f"{name}.pem") for name in names)
    handover = Handover("run", "birch", birch)

    def pinned(identity: bytes) -> bool:
        return identity == alder.public

    assert handover.open(seal_to(handover.request, b"state", alder), pinned) == b"state"
    with pytest.raises(KeyRefused, match="not a silo of this run"):
        handover.open(seal_to(handover.request, b"state", driver), pinned)
    other = Handover("run", "birch", birch)
    sealed = seal_to(other.request, b"state", alder)
    opened = other.open(sealed, pinned)
    assert opened == b"state"
    with pytest.raises(KeyRefused, match="not sealed to this silo"):
        handover.open(sealed, pinned)


class Forger:
    """Somebody who names a silo's identity and cannot sign with it."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, content: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)


def test_a_state_that_only_names_a_silo_is_refused(tmp_path: Path) -> None:
    alder, birch = (Identity(tmp_path / f"{name}.pem") for name in ("alder", "birch"))
    handover = Handover("run", "birch", birch)
    forged: Any = Forger(alder.public)
    with pytest.raises(KeyRefused, match="state does not verify"):
        handover.open(seal_to(handover.request, b"state", forged), lambda _: True)


def returning(started: Any, *overrides: str) -> tuple[Federation, Any]:
    """Birch is on its way back after it died in round 1."""
    one, cluster = started(*MOMENTUM, *overrides, birch=(1, "train"))
    one.run_round(1)
    cluster.returning = {"birch"}
    arrive(one, "birch")
    return one, one._returns._starting["birch"][0].peer.object


def test_identities_that_the_job_pins_decide_whose_state_is_taken(
    started: Any, tmp_path: Path
) -> None:
    own = {name: Identity(tmp_path / "state" / name / "identity.pem") for name in SILOS}
    pins = [f"silos.{name}.identity={fingerprint(one.public)}" for name, one in own.items()]
    one, silo = returning(started, *pins)
    content = state_for_another(
        one._silos["alder"].peer.object._own, one._silos["alder"].peer.object._model
    )
    for signer in (Identity(tmp_path / "driver.pem"), own["birch"]):
        request = decoded(silo.request_state(), StateRequest)
        with pytest.raises(KeyRefused, match="not a silo of this run"):
            silo.take_state([pa.py_buffer(seal_to(request, content, signer))])
    request = decoded(silo.request_state(), StateRequest)
    silo.take_state([pa.py_buffer(seal_to(request, content, own["cedar"]))])
    assert silo._model.digest == one.standing.model


def test_a_state_that_the_run_cannot_have_is_refused(started: Any) -> None:
    one, silo = returning(started)
    alder = one._silos["alder"].peer.object
    good = from_bytes(state_for_another(alder._own, alder._model))
    assert good is not None
    size, momentum = good.model.size, good.optimizer[0]
    wrong: list[dict[str, Any]] = [
        {"model": np.zeros(size + 1, np.float32)},
        {"model": np.zeros(size, np.float64)},
        {"model": np.full(size, np.nan, np.float32)},
        {"optimizer": ()},
        {"optimizer": (momentum[:-1],)},
        {"optimizer": (np.full_like(momentum, np.inf),)},
        {"range": 0.0},
        {"clipping": float("nan")},
        {"round": -1},
        {"round": 1_000},
        {"head": (np.zeros(1, np.float32),)},
        {"average": Averaged(shared=good.average.shared[:-1])},
        {"average": Averaged(shared=good.average.shared.astype(np.float64))},
        {"average": Averaged(shared=np.full(size, np.inf, np.float32))},
        {"average": replace(good.average, head=(np.zeros(1, np.float32),))},
    ]
    before = silo._model.digest
    for change in wrong:
        request = decoded(silo.request_state(), StateRequest)
        content = to_bytes(replace(good, **change))
        with pytest.raises(FederationError, match="cannot have"):
            silo.take_state([pa.py_buffer(seal_to(request, content, alder._books.identity))])
        assert silo._model.digest == before, change

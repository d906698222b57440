"""Who is let in at the gate: the right certificate, identity, name and version, once at a time."""

from __future__ import annotations

import datetime
import gc
import io
import ssl
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.messages import PROTOCOL, Renewal, packed, unpacked
from blindsum.he.identity import Identity
from blindsum.infra import certificates
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    keep_certificate,
    make_authority,
    make_node,
    make_request,
    sign_request,
)
from blindsum.platform import events
from tests.actors.separate.liars import Liar, Refused, uncertified
from tests.actors.separate.organisations import Coordinator, Organisation, until

HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
Enrol = Callable[[str], Organisation]


@pytest.fixture
def enrol(tmp_path: Path, coordinator: Coordinator) -> Iterator[Enrol]:
    """Enrol an organisation; its agent ends with the test."""
    made: list[Organisation] = []

    def make(name: str) -> Organisation:
        made.append(Organisation(tmp_path / name, name, tmp_path / "t.parquet", coordinator))
        return made[-1]

    yield make
    for one in made:
        if hasattr(one, "agent") and one._thread.is_alive():
            one.stop()


def hears(one: Organisation, *words: str) -> str:
    """What its agent shows, once that has all the words."""
    return str(until(lambda: next((t for t in one.said if all(w in t for w in words)), None), 20))


def at(monkeypatch: pytest.MonkeyPatch, shift: datetime.timedelta) -> None:
    """Certificates are made by a clock that differs by so much."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.now(tz) + shift

    shifted = types.SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta, UTC=datetime.UTC)
    monkeypatch.setattr(certificates, "datetime", shifted)


def certify(one: Organisation, by: Path, name: str, authority: Path | None = None) -> None:
    """Give an organisation another certificate."""
    request = make_request(one.tls, name)
    certificate, own = sign_request(by, request, name, 30)
    trusted = (authority / CA_CERTIFICATE).read_text() if authority else own
    keep_certificate(one.tls, certificate, trusted)


# -- certificates --------------------------------------------------------------------------


def test_a_certificate_of_another_authority_is_refused(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    alder, birch = enrol("alder"), enrol("birch")
    make_authority(tmp_path / "other", 30)
    certify(alder, tmp_path / "other", "alder.silo", authority=coordinator.folder)
    alder.start()
    heard = io.StringIO()
    events.start(heard)
    try:
        hears(alder, "not connected", "does not accept this silo's certificate")
        until(lambda: "a client's certificate: unable to get local issuer" in heard.getvalue())
    finally:
        events.stop()
    assert not coordinator.gate.connected("alder")
    birch.start()
    hears(birch, "connected as silo 'birch'")


def test_a_coordinator_with_a_certificate_of_another_authority_is_not_spoken_to(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    alder = enrol("alder")
    make_authority(tmp_path / "other", 30)
    certify(alder, coordinator.folder, "alder.silo", authority=tmp_path / "other")
    alder.start()
    hears(alder, "not connected", "the certificate of 127.0.0.1", "is not trusted")
    assert not coordinator.gate.connected("alder")


def test_an_expired_certificate_is_named(
    coordinator: Coordinator, enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = enrol("alder")
    at(monkeypatch, -40 * DAY)
    certify(alder, coordinator.folder, "alder.silo")
    alder.start()
    hears(alder, "refused", "this silo's certificate expired", "blindsum silo join")
    # and if the silo's clock does not notice, the gate does
    context = ssl.create_default_context(cafile=alder.tls / CA_CERTIFICATE)
    context.load_cert_chain(alder.tls / NODE_CERTIFICATE, alder.tls / NODE_KEY)
    with pytest.raises((ssl.SSLError, OSError)):
        Liar(alder, coordinator, context=context).begin()


def test_another_silo_s_certificate_is_refused(coordinator: Coordinator, enrol: Enrol) -> None:
    alder, birch = enrol("alder"), enrol("birch")
    certify(alder, coordinator.folder, "birch.silo")
    alder.start()
    hears(alder, "refused", "is for birch.silo, and not for alder.silo")
    birch.start()
    hears(birch, "connected as silo 'birch'")
    assert until(lambda: coordinator.gate.connected("birch"))
    assert not coordinator.gate.connected("alder")


def test_the_gate_s_own_certificate_is_no_silo_s(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    """Every certificate of this authority is trusted by TLS; a name is still needed."""
    alder = enrol("alder")
    node = make_node(coordinator.folder, "alder", ["alder.silo.example"], 30)
    context = client_context(node / CA_CERTIFICATE, node / NODE_CERTIFICATE, node / NODE_KEY)
    with pytest.raises(Refused, match="and not for alder.silo"):
        Liar(alder, coordinator, context=context).begin()


def test_without_a_certificate_the_way_in_is_named(coordinator: Coordinator, enrol: Enrol) -> None:
    alder = enrol("alder")
    direct = alder.settings()
    alder.settings = lambda url=None: replace(direct, tls=lambda: uncertified(coordinator))  # type: ignore[method-assign, assignment, misc]
    alder.start()
    hears(alder, "refused", "requires a client certificate, and none arrived", "tls: inspected")
    assert not coordinator.gate.connected("alder")


def test_a_stranger_does_not_learn_who_is_enrolled(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    """Nor does a stranger make the gate check a signature."""
    alder = enrol("alder")
    stranger = Identity(tmp_path / "stranger.pem")
    said = set()
    for name in ("alder", "birch"):
        liar = Liar(
            alder, coordinator, name=name, identity=stranger, context=uncertified(coordinator)
        )
        with pytest.raises(Refused) as refused:
            liar.begin()
        said.add(str(refused.value))
    assert len(said) == 1


def test_a_certificate_is_renewed_for_the_silo_of_the_session_alone(
    coordinator: Coordinator, enrol: Enrol
) -> None:
    alder = enrol("alder")
    liar = Liar(alder, coordinator).begin()
    request = make_request(alder.tls, "birch.silo")
    answer = liar.ask("POST", "/v1/certificate", packed(Renewal(content=request)))
    renewed, _ = unpacked(answer, Renewal)
    keep_certificate(alder.tls, renewed.content, (alder.tls / CA_CERTIFICATE).read_text())
    assert Liar(alder, coordinator).begin().session
    for content in ("", "no request", request.replace("M", "N")):
        with pytest.raises(Refused, match="certificate request is not valid"):
            liar.ask("POST", "/v1/certificate", packed(Renewal(content=content)))


# -- clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [HOUR, DAY, -HOUR, -DAY])
def test_clocks_may_differ_by_a_day(
    enrol: Enrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: datetime.timedelta
) -> None:
    """A fresh coordinator's clock is ahead of the silo's, or behind it: both sides' certificates
    are made by it. Nothing else compares the two clocks."""
    at(monkeypatch, ahead)
    elsewhere = Coordinator(tmp_path / "elsewhere")
    alder = Organisation(tmp_path / "alder", "alder", tmp_path / "t.parquet", elsewhere)
    try:
        alder.start()
        hears(alder, "connected as silo 'alder'")
        assert until(lambda: elsewhere.gate.connected("alder"))
    finally:
        alder.stop()
        elsewhere.close()


# -- identities ----------------------------------------------------------------------------


def test_a_certificate_without_the_identity_is_not_enough(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    alder = enrol("alder")
    liar = Liar(alder, coordinator, identity=Identity(tmp_path / "thief.pem"))
    with pytest.raises(Refused, match="403 the signature of the hello of silo 'alder'"):
        liar.begin()


def test_an_agent_whose_hello_is_refused_says_so_once_and_waits(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    """It once began again at once, for ever and in silence."""
    alder = enrol("alder")
    alder.identity = Identity(tmp_path / "another.pem")
    begun: list[object] = []
    begin = coordinator.gate._begin_session

    async def counted(request: object) -> object:
        begun.append(request)
        return await begin(request)  # type: ignore[arg-type]

    coordinator.gate._begin_session = counted  # type: ignore[method-assign, assignment]
    alder.start()
    hears(alder, "refused", "signature of the hello of silo 'alder' does not verify")
    assert len(alder.said) == 1 and len(begun) <= 3


def test_a_replayed_hello_takes_no_session_away(coordinator: Coordinator, enrol: Enrol) -> None:
    alder = enrol("alder")
    agent = Liar(alder, coordinator)
    first = agent.hello()
    welcome = agent.say_hello(first.hello)
    agent.session, _ = first.welcomed(welcome, agent.public)
    for _ in range(20):  # before the session's first request, and after it
        with pytest.raises(Refused, match="a hello a second time"):
            agent.say_hello(first.hello)
    agent.poll()
    for _ in range(20):
        with pytest.raises(Refused, match="a hello a second time"):
            agent.say_hello(first.hello)
    agent.poll()


def test_hellos_that_were_recorded_elsewhere_take_no_session_away(
    coordinator: Coordinator, enrol: Enrol
) -> None:
    """After the coordinator was started again it has seen none of them."""
    alder = enrol("alder")
    agent = Liar(alder, coordinator)
    recorded = [agent.hello().hello for _ in range(12)]
    agent.begin().poll()
    for hello in recorded[:6]:
        agent.say_hello(hello)
    agent.poll()
    agent.begin()
    for hello in recorded[6:]:
        agent.say_hello(hello)
    agent.poll()
    gate = coordinator.gate
    assert len(gate._sessions) == 1  # what was never used is forgotten
    for _ in range(50):
        agent.say_hello(agent.hello().hello)
    assert len(gate._sessions) < 12


def test_who_is_enrolled_again_loses_the_sessions_of_before(
    coordinator: Coordinator, enrol: Enrol, tmp_path: Path
) -> None:
    """A silo whose keys were stolen is enrolled with new ones."""
    from tests.actors.separate.test_enrolment import enrolment

    alder = enrol("alder")
    thief = Liar(alder, coordinator).begin()
    thief.poll()
    secret = coordinator.registry.invite("alder", 1)
    fresh = Identity(tmp_path / "fresh.pem")
    enrolment(coordinator, "alder", secret, fresh, tmp_path)
    with pytest.raises(Refused, match="401"):
        thief.poll()
    with pytest.raises(Refused, match="signature of the hello"):
        thief.begin()
    assert Liar(alder, coordinator, identity=fresh).begin().poll().board


# -- names and versions --------------------------------------------------------------------


def test_a_silo_that_is_not_enrolled_is_refused(coordinator: Coordinator, enrol: Enrol) -> None:
    alder = enrol("alder")
    certify(alder, coordinator.folder, "birch.silo")
    with pytest.raises(Refused, match="no silo 'birch' is enrolled here"):
        Liar(alder, coordinator, name="birch").begin()


def second(of: Organisation) -> Organisation:
    """Another agent with the same keys, on another machine."""
    other = Organisation.__new__(Organisation)
    other.__dict__.update(of.__dict__, said=[], _stop=lambda: None)
    return other


def test_of_two_agents_with_one_name_the_first_goes_on(
    coordinator: Coordinator, enrol: Enrol
) -> None:
    first = enrol("alder")
    first.start()
    hears(first, "connected as silo 'alder'")
    other = second(first)
    try:
        other.start()
        hears(other, "another agent of silo 'alder' is connected")
        box = coordinator.gate.mailbox("alder")
        for _ in range(20):  # it is not parked while it works, and is still there
            assert box.post("ping", "run-1", box.life).result(10)
        assert first.said == ["connected as silo 'alder'"] and len(other.said) == 1
        first.stop()
        hears(other, "connected as silo 'alder'")
    finally:
        other.stop()


def test_a_second_agent_does_not_slip_in_between_two_polls(
    coordinator: Coordinator, enrol: Enrol
) -> None:
    """The first one is connected, and waits for nothing at this moment."""
    alder = enrol("alder")
    first = Liar(alder, coordinator, instance="1" * 32).begin()
    kept = first.keep()
    other = Liar(alder, coordinator, instance="2" * 32)
    with pytest.raises(Refused, match="409 another agent of silo 'alder' is connected"):
        other.begin()
    kept.close()
    until(lambda: not coordinator.gate._peers["alder"].connected)
    assert other.begin().poll().board
    with pytest.raises(Refused, match="401"):
        first.poll()


@pytest.mark.parametrize("version", ["0.0.9", "0.2.0", "1.1.0", "0.10.0"])
def test_another_minor_version_is_named_in_one_line(
    coordinator: Coordinator, enrol: Enrol, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = enrol("alder")
    monkeypatch.setattr("tests.actors.separate.organisations.VERSION", version)
    alder.start()
    line = hears(alder, "runs blindsum 0.1.0", f"the agent {version}", "minor versions")
    assert alder.said == [line] and "\n" not in line


@pytest.mark.parametrize("version", ["0.1.0", "0.1.9", "0.1.0rc1"])
def test_a_patch_may_differ(coordinator: Coordinator, enrol: Enrol, version: str) -> None:
    assert Liar(enrol("alder"), coordinator, version=version).begin().session


def test_another_protocol_is_refused(
    coordinator: Coordinator, enrol: Enrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = enrol("alder")
    monkeypatch.setattr("blindsum.actors.separate.session.PROTOCOL", PROTOCOL + 1)
    with pytest.raises(Refused, match="403 this coordinator runs blindsum"):
        Liar(alder, coordinator).begin()


def test_a_gate_that_closes_leaves_no_parked_request_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio would report each as an error, on the terminal of whoever stops a coordinator."""
    coordinator = Coordinator(tmp_path / "coordinator")
    alder = Organisation(tmp_path / "alder", "alder", tmp_path / "t.parquet", coordinator)
    alder.start()
    until(lambda: "connected as silo 'alder'" in alder.said)
    box = coordinator.gate.mailbox("alder")
    until(lambda: box.parked)
    coordinator.close()
    alder.stop()
    del coordinator
    gc.collect()
    assert not [one for one in caplog.records if one.name == "asyncio"]

"""The agent's link to the coordinator over links that are cut, slow, silent or of several kinds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import gate, link
from tests.actors.separate.conftest import Make, status
from tests.actors.separate.consortium import TWO, shared_job
from tests.actors.separate.networks import Relay
from tests.actors.separate.organisations import until

LARGE = ("model.kind=mlp", "model.hidden=[1200,1200]")
"""1.4 million parameters: three uploads of 2 MB and three totals of 4 MB for each silo."""


def test_a_round_crosses_a_link_that_is_cut_every_4_mb_in_one_attempt(
    consortium: Make, tmp_path: Path, sessions: list[str]
) -> None:
    one, job = consortium(), shared_job(tmp_path, TWO, *LARGE)
    with ExitStack() as ending:
        port = one.coordinator.port
        relays = [ending.enter_context(Relay(port, cut_after=4 * 2**20)) for _ in TWO]
        for name, relay in zip(TWO, relays, strict=True):
            one.enrol(name)
            one.start(name, f"https://127.0.0.1:{relay.port}")
        with one.federation(job) as federation:
            report = federation.run_round(1)
            release = federation.release(1, report.state_digest)
    assert report.attempt == 1 and len(release.vector) > 1_400_000
    assert [one.charges(name) for name in TWO] == [[(1, 1)], [(1, 1)]]
    assert sorted(sessions) == list(TWO)
    for relay in relays:
        # A cut costs what is under way: three pieces, a poll, and their connections.
        assert relay.cuts >= 4 and relay.connections <= 5 * (relay.cuts + 1)


def test_a_single_cut_is_mended_without_a_word_and_a_longer_one_is_told(
    consortium: Make, sessions: list[str]
) -> None:
    one = consortium()
    with Relay(one.coordinator.port) as relay:
        silo = one.enrol("alder")
        one.start("alder", f"https://127.0.0.1:{relay.port}")
        until(lambda: silo.said, 10)
        before = relay.connections
        relay.cut()
        until(lambda: relay.connections > before, 10)
        assert silo.said == ["connected as silo 'alder'"] and status(silo)["connected"]
        relay.down = True
        relay.cut()
        until(lambda: not status(silo).get("connected", True), 10)
        relay.down = False
        until(lambda: status(silo).get("connected"), 10)
    assert [line.split()[0] for line in silo.said] == ["connected", "not", "connected"]
    assert status(silo)["why"] == "" and sessions == ["alder"]


def test_a_silo_with_another_identity_is_told_and_asks_less_and_less_often(
    consortium: Make, sessions: list[str]
) -> None:
    one = consortium()
    silo = one.enrol("alder")
    secret = one.coordinator.registry.invite("alder", 1)
    other = one.enrol("birch").identity
    one.coordinator.registry.enrol("alder", other.public, secret)
    one.start("alder")
    until(lambda: silo.said, 10)
    assert silo.said == ["refused: the signature of the hello of silo 'alder' does not verify"]
    until(lambda: status(silo).get("connected") is False, 10)
    until(lambda: len(sessions) == 2, 10)
    assert len(silo.said) == 1


# -- silent links --------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let polls be parked for half a second, and silence count after another half."""
    for module in (gate, link):
        monkeypatch.setattr(module, "PARK_S", 0.5)
    monkeypatch.setattr(link, "SILENT_S", 0.5)


def test_a_silent_link_is_noticed_within_20_s() -> None:
    assert link.PARK_S + link.SILENT_S <= 15


def test_a_link_that_goes_silent_without_an_end_is_replaced(
    consortium: Make, impatient: None, sessions: list[str]
) -> None:
    one = consortium()
    with Relay(one.coordinator.port) as relay:
        silo = one.enrol("alder")
        one.start("alder", f"https://127.0.0.1:{relay.port}")
        until(lambda: silo.said, 10)
        before = relay.connections
        assert relay.hold()
        until(lambda: relay.connections > before, 5)
        mailbox = one.coordinator.gate.mailbox("alder")
        heard = mailbox.heard
        until(lambda: mailbox.heard != heard, 5)
        assert silo.said == ["connected as silo 'alder'"] and sessions == ["alder"]


@pytest.mark.parametrize(("sent", "whole"), [(10_000, True), (40_000, True), (10_000, False)])
def test_a_round_whose_link_goes_silent_completes_in_one_attempt(
    sent: int, whole: bool, consortium: Make, tmp_path: Path, impatient: None, in_parts: None
) -> None:
    """In the middle of uploads, and later; all its connections, or the one of an upload alone."""
    one, job = consortium(), shared_job(tmp_path)
    with Relay(one.coordinator.port) as relay:
        one.start_all(job, f"https://127.0.0.1:{relay.port}")
        with one.federation(job) as federation:
            relay.holds_all = whole
            relay.hold_after = relay.carried + sent
            assert federation.run_round(1).attempt == 1
            assert relay.hold_after is None
    assert one.charges("alder") == one.charges("birch") == [(1, 1)]


def test_a_round_crosses_a_slow_link_and_no_connection_is_given_up(
    consortium: Make, tmp_path: Path, impatient: None, in_parts: None, sessions: list[str]
) -> None:
    """Its pieces are under way for seconds, beside polls that are answered within one."""
    one = consortium()
    job = shared_job(tmp_path, TWO, "model.kind=mlp", "model.hidden=[450,450]")
    with Relay(one.coordinator.port, bytes_a_second=500_000) as relay:
        for name, port in zip(TWO, (relay.port, one.coordinator.port), strict=True):
            one.enrol(name)
            one.start(name, f"https://127.0.0.1:{port}")
        with one.federation(job) as federation:
            report = federation.run_round(1)
        assert report.attempt == 1 and report.seconds > 2 and relay.carried > 1_000_000
        assert relay.connections <= 6
    assert one.charges("alder") == [(1, 1)] and sorted(sessions) == list(TWO)


def test_an_agent_is_more_patient_after_each_silence(
    consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over this link every answer takes longer than a parked poll and the first patience."""
    for module, name in ((gate, "PARK_S"), (link, "PARK_S"), (link, "SILENT_S")):
        monkeypatch.setattr(module, name, 0.15)
    one = consortium()
    with Relay(one.coordinator.port, delay_s=0.2) as relay:
        silo = one.enrol("alder")
        one.start("alder", f"https://127.0.0.1:{relay.port}")
        until(lambda: silo.said and silo.agent._link.answered > 2, 20)
        assert silo.agent._link._patience.seconds > link.SILENT_S
    patience = link.Patience()
    assert patience.seconds == link.SILENT_S
    for _ in range(2000):
        patience.double()
    assert patience.seconds == link.MOST_SILENT_S


# -- addresses -----------------------------------------------------------------------------------


def test_a_coordinator_with_an_ipv6_address(consortium: Make) -> None:
    one = consortium(host="::1")
    assert one.coordinator.url.startswith("https://[::1]:")
    silo = one.enrol("alder")
    one.start("alder")
    until(lambda: one.connected("alder"), 10)
    assert silo.said == ["connected as silo 'alder'"]


def test_a_host_name_of_which_the_first_address_does_not_answer(
    consortium: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "coordinator.example"
    one = consortium(names=[name])
    port = one.coordinator.port
    real = socket.getaddrinfo

    def several(host: Any, *rest: Any, **options: Any) -> Any:
        if host != name:
            return real(host, *rest, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with silent("127.0.0.2", port):
        silo = one.enrol("alder")
        one.start("alder", f"https://{name}:{port}")
        until(lambda: one.connected("alder"), 5)
    assert silo.said == ["connected as silo 'alder'"]


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that leaves every attempt to connect without an answer: its queue is full."""
    with socket.create_server((host, port), backlog=0) as server:
        waiting = []
        for _ in range(2):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(server.getsockname())
        with socket.socket() as probe:
            probe.settimeout(0.2)
            with pytest.raises(TimeoutError):
                probe.connect(server.getsockname())
        yield
        for held in waiting:
            held.close()

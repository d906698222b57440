"""The agent's link to the coordinator over links that are cut, slow, silent or of several kinds."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import gate
from blindsum.actors.separate.agent import status_file
from tests.actors.separate.conftest import Make
from tests.actors.separate.consortium import TWO, shared_job
from tests.actors.separate.networks import Relay
from tests.actors.separate.organisations import Organisation, until

LARGE = ("model.kind=mlp", "model.hidden=[1200,1200]")
"""1.4 million parameters: three uploads of 2 MB and three totals of 4 MB for each silo."""


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The silos of the sessions that gates grant, as they are granted."""
    granted: list[str] = []
    real = gate.grant

    def counting(body: bytes, hello: Any, *rest: Any) -> Any:
        granted.append(hello.silo)
        return real(body, hello, *rest)

    monkeypatch.setattr(gate, "grant", counting)
    return granted


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
            release = federation.release(1, report.model_digest)
    assert report.attempt == 1 and len(release.vector) > 1_400_000
    assert [one.charges(name) for name in TWO] == [[(1, 1)], [(1, 1)]]
    assert sorted(sessions) == list(TWO)
    for relay in relays:
        # A cut costs what is under way: three pieces, a poll, and their connections.
        assert relay.cuts >= 4 and relay.connections <= 5 * (relay.cuts + 1)


def status(silo: Organisation) -> dict[str, Any]:
    """What the agent notes for `blindsum silo status`."""
    try:
        found: dict[str, Any] = json.loads(status_file(silo.state).read_text())
    except ValueError:  # it is just being written
        return {}
    return found


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
    assert not status(silo)["connected"]
    until(lambda: len(sessions) == 2, 10)
    assert len(silo.said) == 1

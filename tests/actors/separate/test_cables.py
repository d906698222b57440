"""A cable that is unplugged: network namespaces, so it needs root and iproute2."""

from __future__ import annotations

import time

import pytest

from blindsum.actors.separate import client, link
from tests.actors.separate.cables import Cable
from tests.actors.separate.conftest import Make, status
from tests.actors.separate.organisations import until


def test_a_cable_that_is_unplugged_is_noticed_by_the_system_itself(
    consortium: Make, monkeypatch: pytest.MonkeyPatch, sessions: list[str]
) -> None:
    """Long before a poll is overdue; the system is told to be quicker here than SILENT_CUT_S."""
    monkeypatch.setattr(client, "SILENT_CUT_S", 3)
    monkeypatch.setattr(client, "CONNECT_S", 1.0)
    with Cable() as cable:
        one = consortium(host=cable.here)
        silo = one.enrol("alder")
        one.start("alder", before=cable.enter)
        until(lambda: silo.said, 10)
        cable.unplug()
        started = time.monotonic()
        until(lambda: not status(silo).get("connected", True), 20)
        assert time.monotonic() - started < link.SILENT_S
        cable.plug()
        until(lambda: status(silo).get("connected"), 20)
        assert sessions == ["alder"]
        one.close()

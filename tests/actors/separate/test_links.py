"""The agent's link to the coordinator over links that are cut, slow, silent or of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import gate
from tests.actors.separate.conftest import Make
from tests.actors.separate.consortium import TWO, shared_job
from tests.actors.separate.networks import Relay

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
    with Relay(one.coordinator.port, cut_after=4 * 2**20) as relay:
        one.start_all(job, f"https://127.0.0.1:{relay.port}")
        with one.federation(job) as federation:
            report = federation.run_round(1)
            release = federation.release(1, report.model_digest)
        assert report.attempt == 1 and len(release.vector) > 1_400_000
        assert [one.charges(name) for name in TWO] == [[(1, 1)], [(1, 1)]]
        assert relay.cuts >= 8 and sorted(sessions) == list(TWO)
        # A cut costs what is under way, three pieces and a poll of each silo, and no more.
        assert relay.connections <= 2 * 5 * (relay.cuts + 1)

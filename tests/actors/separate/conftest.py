"""Consortia and coordinators that end with their test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import gate, local_silo, mailbox, relay
from blindsum.actors.separate.agent import status_file
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.platform.job.schema import Job
from tests.actors.separate.cables import CAN
from tests.actors.separate.consortium import Consortium, shared_job
from tests.actors.separate.deceived import Deceived
from tests.actors.separate.liars import Liar
from tests.actors.separate.organisations import Coordinator, Organisation

Make = Callable[..., Consortium]
collect_ignore = [] if CAN else ["test_cables.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested, as `tests/infra/conftest.py` does."""
    for what in collect_ignore:
        terminalreporter.write_line(f"NOT TESTED HERE, {what}: needs root, iproute2", red=True)


def status(silo: Organisation) -> dict[str, Any]:
    """What the agent notes for `blindsum silo status`."""
    try:
        found: dict[str, Any] = json.loads(status_file(silo.state).read_text())
    except (FileNotFoundError, ValueError):  # it is just being written
        return {}
    return found


@pytest.fixture
def consortium(tmp_path: Path, tables: dict[str, Path]) -> Iterator[Make]:
    """Make a coordinator; keywords as those of `organisations.Coordinator`."""
    made: list[Consortium] = []

    def make(**coordinator: Any) -> Consortium:
        made.append(Consortium(tmp_path, tables, **coordinator))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator by itself."""
    made = Coordinator(tmp_path / "coordinator")
    yield made
    made.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of alder and birch."""
    return shared_job(tmp_path)


@pytest.fixture
def deceived(tmp_path: Path, tables: dict[str, Path], job: Job) -> Iterator[Deceived]:
    """An agent of alder whose coordinator lies to it."""
    made = Deceived(tmp_path, tables)
    yield made
    made.close()


@pytest.fixture
def liars(tmp_path: Path, coordinator: Coordinator) -> dict[str, Liar]:
    """Alder and birch, each with a session."""
    found = {}
    for name in ("alder", "birch"):
        one = Organisation(tmp_path / name, name, tmp_path / "t.parquet", coordinator)
        found[name] = Liar(one, coordinator).begin()
        found[name].poll()
    return found


@pytest.fixture
def alder(liars: dict[str, Liar]) -> Liar:
    return liars["alder"]


@pytest.fixture
def box(coordinator: Coordinator, alder: Liar) -> Mailbox:
    """Alder's mailbox."""
    return coordinator.gate.mailbox("alder")


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no frame and no answer's value travel with its message."""
    for module in (relay, local_silo, mailbox):
        monkeypatch.setattr(module, "INLINE", 0)


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

"""What a coordinator does with proposals: when one starts, and what one's fault does to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate.messages import Decision
from blindsum.actors.separate.registry import OPEN
from blindsum.he.identity import Identity
from blindsum.pipelines.consortium import coordinator as module
from blindsum.pipelines.consortium.coordinator import Coordinator
from blindsum.pipelines.consortium.job import proposal_of
from blindsum.pipelines.consortium.settings import make_home
from blindsum.platform.errors import JobError
from blindsum.platform.job.schema import Job
from tests.conftest import SILOS, MakeJob

Propose = Callable[..., str]


class Listener:
    def close(self) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> tuple[Coordinator, list[str]]:
    home = make_home(tmp_path / "coordinator", "https://127.0.0.1:8443", ["127.0.0.1:0"])
    for name in SILOS:
        identity = Identity(tmp_path / f"{name}.pem").public
        home.registry.enrol(name, identity, home.registry.invite(name, 1))
    said: list[str] = []
    made: Any = Coordinator(home, "0.1.0", said.append, Listener, lambda run: None)  # type: ignore[arg-type]
    made.gate.connected = lambda silo: True
    return made, said


@pytest.fixture
def propose(served: tuple[Coordinator, list[str]], make_job: MakeJob) -> Propose:
    def made(*overrides: str) -> str:
        datasets = [f"silos.{name}.data=tumours" for name in SILOS]
        states = [f"silos.{name}.state=null" for name in SILOS]
        job_file = make_job(*datasets, *states, *overrides)
        return served[0].take_job(*proposal_of(job_file))[0]

    return made


def decide(one: Coordinator, digest: str, **verdicts: Any) -> None:
    for silo, verdict in verdicts.items():
        one.registry.decide(silo, Decision(proposal=digest, verdict=verdict))


def test_a_fault_in_one_job_ends_no_other(
    served: tuple[Coordinator, list[str]], propose: Propose, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, said = served
    begun: list[str] = []

    def train(job_file: Any, *_: Any, **__: Any) -> Any:
        begun.append(job_file.job.name)
        raise ValueError("a record's value")

    monkeypatch.setattr(module, "train", train)
    for name in ("first", "second"):
        digest = propose(f"name={name}")
        decide(one, digest, alder="approved", birch="approved", cedar="approved")
    one._look()
    one._look()
    assert begun == ["first", "second"]
    states = {each.name: (each.state, each.note) for each in one.registry.proposals()}
    assert states["first"][0] == states["second"][0] == "failed"
    assert "ValueError" in str(states["first"]) and "a record's value" not in str(states)
    assert any("first" in line and "has failed" in line for line in said)


def test_a_job_waits_for_every_silo_unless_it_is_told_to_start(
    served: tuple[Coordinator, list[str]], propose: Propose
) -> None:
    one, said = served
    digest = propose("quorum=2")

    def ready() -> bool:
        return one._is_ready(one.registry.proposal(digest))

    assert not ready() and "alder to decide, birch to decide, cedar to decide" in said[-1]
    decide(one, digest, alder="approved", birch="approved")
    assert not ready() and said[-1].endswith("cedar to decide")
    one.registry.force(digest)
    assert ready()
    decide(one, digest, cedar="refused", birch="refused")
    assert not ready()
    assert one.registry.proposal(digest).state == "failed" not in OPEN


def test_a_job_starts_without_those_that_refused_if_its_quorum_remains(
    served: tuple[Coordinator, list[str]], propose: Propose
) -> None:
    one, said = served
    digest = propose("quorum=2")
    decide(one, digest, alder="approved", birch="approved", cedar="refused")
    assert one._is_ready(one.registry.proposal(digest))
    one.gate.connected = lambda silo: silo != "birch"  # type: ignore[method-assign]
    assert not one._is_ready(one.registry.proposal(digest))
    assert said[-1].endswith("birch to connect")


def test_what_a_job_may_not_ask_of_separate_clusters_is_said_at_once(
    served: tuple[Coordinator, list[str]], make_job: MakeJob
) -> None:
    with pytest.raises(JobError) as refused:
        proposal_of(
            make_job(
                "tracking.uri=sqlite:///x.db",
                "encryption.scheme=none",
                "simulation.silos_per_process=2",
            )
        )
    lines = str(refused.value.what).splitlines()
    assert sum("a path" in line for line in lines) == 3
    assert any(line.startswith("tracking.uri") for line in lines)
    assert any(line.startswith("encryption.scheme none") for line in lines)
    (simulated,) = (line for line in lines if line.startswith("simulation"))
    assert "alder, birch, cedar are real owners'" in simulated and "leave the section" in simulated


def test_identities_are_pinned_and_a_wrong_pin_is_refused(
    served: tuple[Coordinator, list[str]], propose: Propose
) -> None:
    one, _ = served
    job = Job.model_validate_json(one.registry.proposal(propose()).job)
    assert all(silo.identity for silo in job.silos)
    with pytest.raises(JobError, match=r"silos.alder.identity is not the enrolled one"):
        propose(f"silos.alder.identity={'ab' * 32}", "name=other")

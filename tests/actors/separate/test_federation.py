"""Whole federations across separate clusters: the same models as in one, and what they survive."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from blindsum.actors.federation import Federation
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.he.identity import fingerprint
from blindsum.platform.errors import CannotTakePart, SiloLost
from blindsum.platform.job.schema import Job
from blindsum.platform.state.audit_log import AuditLog
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.conftest import SILOS, MakeJob

SEEDED = ("privacy.test_seed=7", "training.rounds=20", "quorum=2")


class World:
    """A coordinator, three organisations, and a job that names their datasets."""

    def __init__(self, folder: Path, tables: dict[str, Path], template: Job) -> None:
        self.folder = folder
        self.coordinator = Coordinator(folder / "coordinator")
        self.silos = {
            name: Organisation(folder / name, name, tables[name], self.coordinator)
            for name in SILOS
        }
        pinned = [
            section.model_copy(
                update={
                    "data": "tumours",
                    "state": None,
                    "identity": fingerprint(self.silos[section.name].identity.public),
                }
            )
            for section in template.silos
        ]
        self.job = Job.model_validate(
            template.model_copy(update={"silos": pinned}).model_dump(mode="json")
        )
        self.federations: list[Federation] = []

    def connect(self, silo: type[Silo] = Silo) -> None:
        for one in self.silos.values():
            one.start(silo)
        until(lambda: all(self.coordinator.gate.connected(name) for name in SILOS))

    def propose(self) -> str:
        digest = self.coordinator.propose(self.job)
        for one in self.silos.values():
            one.approve(digest)
        until(lambda: len(self.approved(digest)) == len(SILOS))
        return digest

    def approved(self, digest: str) -> list[str]:
        found = self.coordinator.registry.decisions(digest)
        return [name for name, one in found.items() if one.verdict == "approved"]

    def federation(self, digest: str, silent_s: float = 30.0, **more: Any) -> Federation:
        cluster = self.coordinator.cluster(digest, self.job, silent_s)
        one = Federation(self.job, "run", "", cluster, **more)
        self.federations.append(one)
        one.inspect()
        one.exchange_keys()
        return one

    def close(self) -> None:
        for one in self.federations:
            one.close()
        for silo in self.silos.values():
            with suppress(RuntimeError):  # it is stopped already
                silo.stop()
        self.coordinator.close()


@pytest.fixture
def world(make_job: MakeJob, tmp_path: Path) -> Iterator[Any]:
    made: list[World] = []

    def make(*overrides: str) -> World:
        job_file = make_job(*SEEDED, *overrides)
        tables = {s.name: Path(job_file.folder, s.data) for s in job_file.job.silos}
        made.append(World(tmp_path / "world", tables, job_file.job))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_both_modes_train_the_same_models(world: Any, make_job: MakeJob) -> None:
    """Nothing in the federation knows where the silos are."""
    here = world()
    here.connect()
    across = here.federation(here.propose())
    job_file = make_job(*SEEDED)
    one = Federation(job_file.job, "one", str(job_file.folder), ThreadCluster())
    one.inspect()
    one.exchange_keys()
    for number in (1, 2, 3):
        ours, theirs = across.run_round(number), one.run_round(number)
        assert ours.model_digest == theirs.model_digest
        assert ours.metrics == theirs.metrics and ours.up_bytes == theirs.up_bytes
        assert ours.before == theirs.before
    assert across.evaluate() == one.evaluate()
    assert (
        across.release(3, ours.state_digest).vector == one.release(3, ours.state_digest).vector
    ).all()
    one.close()


def test_an_agent_that_is_started_again_comes_back_into_the_next_round(world: Any) -> None:
    here = world()
    here.connect()
    one = here.federation(here.propose(), silent_s=2.0)
    one.run_round(1)
    birch = here.silos["birch"]
    birch.stop()
    assert one.run_round(2).roster == ("alder", "cedar")
    birch.start()
    until(lambda: here.coordinator.gate.connected("birch"))
    one._readmit()
    _, reply = one._returns._starting["birch"]
    until(lambda: one._cluster.wait([reply.handle], 1, 0.1))
    report = one.run_round(3)
    assert report.roster == SILOS and report.before.held_out is not None
    assert dict(one.lost) == {}


def test_the_coordinator_restarts_and_the_run_goes_on(world: Any) -> None:
    here = world()
    here.connect()
    digest = here.propose()
    one = here.federation(digest)
    reports = [one.run_round(number) for number in (1, 2)]
    standing, port = one.standing, here.coordinator.server.ports[0]
    here.federations.clear()  # killed: it tells nobody
    here.coordinator.close()
    here.coordinator = Coordinator(here.folder / "coordinator", port=port)
    until(lambda: all(here.coordinator.gate.connected(name) for name in SILOS))
    again = here.federation(digest, standing=standing)
    assert again.run_round(3).roster == SILOS
    assert again.standing.round == 3 and reports[1].state_digest == standing.model


def test_a_table_that_changed_after_its_approval_stays_at_home(world: Any) -> None:
    here = world()
    here.connect()
    digest = here.propose()
    path = here.silos["cedar"].content["datasets"]["tumours"]["path"]
    table = pa.parquet.read_table(path)
    pa.parquet.write_table(table.slice(1), path)
    with pytest.raises(CannotTakePart) as refused:
        here.federation(digest)
    assert refused.value.silo == "cedar" and "records" not in refused.value.what
    assert "are not those for which" in last_refusal(here.silos["cedar"])


def test_another_version_of_blindsum_needs_another_approval(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world()
    here.connect()
    digest = here.propose()
    monkeypatch.setattr("blindsum.actors.admission.__version__", "0.1.99")
    with pytest.raises(CannotTakePart):
        here.federation(digest)
    said = [last_refusal(one) for one in here.silos.values()]
    assert any("approved under blindsum" in one for one in said)


def test_a_silo_that_did_not_approve_is_not_started(world: Any) -> None:
    here = world("quorum=3")
    here.connect()
    digest = here.coordinator.propose(here.job)
    here.silos["alder"].approve(digest)
    here.silos["birch"].approve(digest)
    with pytest.raises(SiloLost, match="cedar"):
        here.federation(digest)
    assert not (here.silos["cedar"].state / "ledger.sqlite").exists()


def last_refusal(one: Organisation) -> str:
    """Why a silo refused last, from its own audit log."""
    log = AuditLog(one.state / "audit.sqlite", one.name, one.identity)
    refused = [entry for entry in log.newest(5) if entry.kind == "refused"]
    log.close()
    return str(refused[0].detail["said"]) if refused else ""


def test_a_job_that_is_proposed_again_needs_a_new_decision(world: Any) -> None:
    """Its approval was for one run, which has used it up."""
    here = world()
    here.connect()
    digest = here.propose()
    here.coordinator.registry.note(digest, "finished")
    here.coordinator.gate.boards_changed()
    inboxes = [one.agent.inbox for one in here.silos.values()]
    until(lambda: all(inbox.one(digest).state == "finished" for inbox in inboxes))
    assert here.coordinator.propose(here.job) == digest
    until(lambda: all(inbox.one(digest).verdict == "pending" for inbox in inboxes))
    until(lambda: not here.approved(digest))
    assert any("is proposed again" in line for line in here.silos["alder"].said)


def test_a_refusal_by_rule_does_not_tell_the_rule(world: Any) -> None:
    here = world("model={kind: factory, factory: 'net:build'}")
    here.connect()
    digest = here.coordinator.propose(here.job)
    decided = until(lambda: here.coordinator.registry.decisions(digest).get("alder"))
    until(lambda: here.coordinator.registry.decisions(digest)["alder"].verdict == "refused")
    decided = here.coordinator.registry.decisions(digest)["alder"]
    assert decided.reason == "the silo's own rules do not allow it"
    assert "model.factory" in here.silos["alder"].agent.inbox.one(digest).reason

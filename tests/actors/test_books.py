"""What a silo writes down, and that it is there before what it tells of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blindsum.he.identity import Identity, fingerprint
from blindsum.platform.errors import BlindsumError, FederationError, LedgerError
from blindsum.platform.state.approval import job_digest
from blindsum.platform.state.audit_log import AuditLog, Event
from blindsum.platform.training.vector import digest
from tests.actors.test_silo import NO_NOISE, Consortium
from tests.conftest import MakeJob, ledger_of


def events(tmp_path: Path, silo: str = "alder") -> list[Event]:
    state = tmp_path / "state" / silo
    log = AuditLog(state / "audit.sqlite", silo, Identity(state / "identity.pem"))
    assert log.chain.verify(thorough=True).entries == len(log.events())
    return log.events()


@pytest.mark.parametrize("privacy", ["privacy.epsilon=8", NO_NOISE])
def test_a_round_leaves_what_was_joined_charged_sent_and_released(
    make_job: MakeJob, tmp_path: Path, privacy: str
) -> None:
    consortium = Consortium(make_job(privacy))
    consortium.round(1)
    consortium.evaluate(2)
    _, joined, charged, update, _, metrics, ended = events(tmp_path)
    kinds = ["inspected", "joined", "charged", "sent", "charged", "sent", "ended"]
    assert [e.kind for e in events(tmp_path)] == kinds
    assert {e.job for e in events(tmp_path)} == {"run-1"}
    assert joined.detail["job_digest"] == job_digest(make_job(privacy).job)
    keys = {n: fingerprint(s._vault._identity.public) for n, s in consortium.silos.items()}
    assert joined.detail["identities"] == keys
    assert (charged.round, charged.attempt) == (1, 1)
    assert (charged.detail["epsilon"] is None) == (privacy == NO_NOISE)
    assert charged.detail["ledger"].startswith("2:")
    assert (update.detail["purpose"], metrics.detail["purpose"]) == ("update", "metrics")
    assert update.detail["roster"] == ["alder", "birch", "cedar"]
    of_others = {digest(s._model.average.shared) for s in consortium.silos.values()}
    assert {ended.detail["model"]} == of_others and ended.round == 1
    content = json.dumps([vars(e) for e in events(tmp_path)])
    for value in consortium.silos["alder"]._own.data.train.features.ravel():
        assert repr(float(value)) not in content or len(repr(float(value))) < 6


@pytest.mark.parametrize("privacy", ["privacy.epsilon=8", NO_NOISE])
def test_keys_made_anew_before_the_first_charge_reserve_nothing_twice(
    make_job: MakeJob, tmp_path: Path, privacy: str
) -> None:
    consortium = Consortium(make_job(privacy))
    consortium.aggregators[0]._identities = {}
    consortium.exchange_keys()
    consortium.round(1)
    kinds = [e.kind for e in ledger_of(tmp_path / "state" / "alder", "alder").entries()]
    assert kinds == (["unprotected", "attempt"] if privacy == NO_NOISE else ["reserve", "charge"])
    assert [e.kind for e in events(tmp_path)][:3] == ["inspected", "joined", "joined"]


@pytest.mark.parametrize("purpose", ["update", "metrics"])
def test_nothing_is_computed_or_sent_that_cannot_be_noted(
    make_job: MakeJob, tmp_path: Path, purpose: str
) -> None:
    """Compute or send first and note later, and this fails."""
    consortium = Consortium(make_job("privacy.metrics_epsilon=1"))
    consortium.round(1)
    silo: Any = consortium.silos["alder"]
    charged = len(ledger_of(tmp_path / "state" / "alder", "alder").entries())
    silo._admission.books._audit.chain.db.execute("PRAGMA query_only = 1")
    silo._own.trainer.train = lambda *_: pytest.fail("trained")
    silo._own.counting.of_held_out = lambda *_: pytest.fail("evaluated")
    with pytest.raises(LedgerError, match="the audit log .* cannot be used"):
        if purpose == "update":
            silo.train(consortium.exchange(2))
        else:
            silo.evaluate(consortium.counts(2))
    assert silo.taken() == []
    entries = ledger_of(tmp_path / "state" / "alder", "alder").entries()
    assert len(entries) == charged, "the charge and the note are written together"


def test_refusals_are_kept_with_their_reason(make_job: MakeJob, tmp_path: Path) -> None:
    consortium = Consortium(make_job())
    consortium.round(1)
    with pytest.raises(FederationError, match="announced again"):
        consortium.silos["alder"].train(consortium.exchange(1))
    with pytest.raises(FederationError, match="the announced roster"):
        consortium.silos["alder"].train(replace(consortium.exchange(2), roster=("alder", "oak")))
    again, roster = events(tmp_path)[-2:]
    assert (again.kind, again.round, again.detail["error"]) == ("refused", 1, "FederationError")
    assert "announced again" in again.detail["said"]
    assert (roster.kind, roster.round) == ("refused", 2)


def test_a_log_that_was_changed_keeps_the_silo_out(make_job: MakeJob, tmp_path: Path) -> None:
    Consortium(make_job()).round(1)
    path = tmp_path / "state" / "alder" / "audit.sqlite"
    log = AuditLog(path, "alder", Identity(tmp_path / "state" / "alder" / "identity.pem"))
    log.chain.db.executescript("DROP TRIGGER no_delete; DELETE FROM entries WHERE number = 2;")
    log.close()
    with pytest.raises(BlindsumError, match="the audit log"):
        Consortium(make_job(), run="run-2")

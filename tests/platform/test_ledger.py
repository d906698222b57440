"""The ledger: never over the budget, never silently changed, on disk before anything runs."""

import math
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.platform.errors import BudgetExceeded, LedgerError
from blindsum.platform.ledger import Ledger
from blindsum.platform.privacy import Accountant, PrivacyPlan

SIGMA = 3.0
DATASET = "a dataset's fingerprint"


def privacy_plan(epsilon: float = 1.0) -> PrivacyPlan:
    return PrivacyPlan(epsilon, 1e-5, 0.2, SIGMA, 1.0, 1, 50, 50, epsilon)


def open_ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.sqlite", "alder", now=lambda: 1.0)


@pytest.fixture(scope="module")
def accountant() -> Accountant:
    return Accountant(privacy_plan())


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    budget=st.floats(0.3, 2.0),
    steps=st.lists(st.sampled_from(["round", "again", "reopen"]), min_size=1, max_size=25),
)
def test_no_sequence_passes_the_budget_or_loses_a_charge(
    tmp_path_factory,
    accountant,
    budget,
    steps,  # type: ignore[no-untyped-def]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = open_ledger(folder)
    ledger.reserve("job", DATASET, privacy_plan(budget))
    number, charged = 0, 0
    for step in steps:
        if step == "reopen":
            ledger.close()
            ledger = open_ledger(folder)
            continue
        number += step == "round"
        attempt = 1 if step == "round" else 100 + charged
        try:
            epsilon = ledger.charge("job", number, attempt, accountant)
        except BudgetExceeded:
            assert accountant.epsilon_after(charged + 1) > budget
        else:
            charged += 1
            assert epsilon == accountant.epsilon_after(charged) <= budget
    entries = ledger.entries()
    assert [e.kind for e in entries] == ["reserve"] + ["charge"] * charged
    assert ledger.lifetime(DATASET).epsilon == pytest.approx(accountant.epsilon_after(charged))
    ledger.verify()


def test_budgets_last_across_jobs(tmp_path: Path, accountant: Accountant) -> None:
    for job in ("one", "two"):
        ledger = open_ledger(tmp_path)
        ledger.reserve(job, DATASET, privacy_plan())
        ledger.charge(job, 1, 1, accountant)
        ledger.close()
    lifetime = open_ledger(tmp_path).lifetime(DATASET)
    assert lifetime.jobs == 2 and lifetime.delta == pytest.approx(2e-5)
    assert lifetime.epsilon == pytest.approx(2 * accountant.epsilon_after(1))
    assert open_ledger(tmp_path).lifetime("another dataset").jobs == 0


def test_an_attempt_is_charged_once_and_only_after_a_reservation(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(LedgerError, match="reserved no plan"):
        ledger.charge("job", 1, 1, accountant)
    ledger.reserve("job", DATASET, privacy_plan())
    ledger.charge("job", 1, 1, accountant)
    with pytest.raises(LedgerError, match="charged already"):
        ledger.charge("job", 1, 1, accountant)
    with pytest.raises(LedgerError, match="already reserved"):
        ledger.reserve("job", DATASET, privacy_plan())


def test_a_charge_is_on_disk_when_charge_returns(tmp_path: Path, accountant: Accountant) -> None:
    """A process killed right after `charge` has charged; one killed in it left no half entry."""

    def charge_and_die(ready: object) -> None:
        ledger = open_ledger(tmp_path)
        ledger.reserve("job", DATASET, privacy_plan())
        ledger.charge("job", 1, 1, accountant)
        ledger._db.execute("BEGIN IMMEDIATE")
        ledger._append(ledger.entries()[-1])  # begun, never committed
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=charge_and_die, args=(None,))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    ledger = open_ledger(tmp_path)
    assert [e.kind for e in ledger.entries()] == ["reserve", "charge"]
    ledger.charge("job", 2, 1, accountant)


def tampered(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for trigger in ("no_update", "no_delete"):
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        (
            "UPDATE entries SET content = replace(content, '\"epsilon\": 1.0', '\"epsilon\": 9.0')",
            1,
        ),
        ("DELETE FROM entries WHERE number = 2", 2),
        ("DELETE FROM entries WHERE number = 1", 1),
        ("UPDATE entries SET hash = upper(hash) WHERE number = 3", 3),
    ],
)
def test_tampering_is_found_and_named(
    tmp_path: Path, accountant: Accountant, statement: str, entry: int
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    for number in (1, 2):
        ledger.charge("job", number, 1, accountant)
    ledger.close()
    tampered(ledger.path, statement)
    with pytest.raises(LedgerError, match=f"entry {entry} of the ledger"):
        open_ledger(tmp_path)


def test_entries_cannot_be_changed_through_sql(tmp_path: Path, accountant: Accountant) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    for statement in ("UPDATE entries SET content = ''", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger._db.execute(statement)


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).path.stat().st_mode & 0o777 == 0o600


def test_ledgers_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is not a database, it is a text of some length")
    with pytest.raises(LedgerError, match="cannot be used"):
        open_ledger(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "file" / "ledger.sqlite", "alder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "folder", "alder")


def test_a_full_disk_charges_nothing_and_says_so(tmp_path: Path, accountant: Accountant) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
    with pytest.raises(LedgerError, match="full"):
        for number in range(1, 100):
            ledger.charge("job", number, 1, Accountant(privacy_plan(1e9)))
    ledger.verify()


def test_a_job_without_privacy_leaves_an_unbounded_spend(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.unprotected("plain", DATASET)
    ledger.reserve("job", DATASET, privacy_plan())
    ledger.charge("job", 1, 1, accountant)
    ledger.close()
    lifetime = open_ledger(tmp_path).lifetime(DATASET)
    assert lifetime.epsilon == math.inf and lifetime.jobs == 2

"""The ledger never exceeds the budget, detects changes, and is on disk before training."""

import math
import multiprocessing
import os
import signal
import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.he.identity import Identity
from blindsum.platform.errors import BudgetExceeded, LedgerError
from blindsum.platform.privacy.lifetime_limit import ORDERS, Limit, nothing, round_divergences
from blindsum.platform.privacy.plan import Accountant, PrivacyPlan
from blindsum.platform.state.audit_log import AuditLog
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.state.ledger_entries import Dataset
from tests.plans import plan_by_hand

SIGMA = 3.0
DATASET = Dataset("a dataset's fingerprint")


def privacy_plan(epsilon: float = 1.0) -> PrivacyPlan:
    return plan_by_hand(
        epsilon=epsilon,
        sampling_rate=0.2,
        noise_multiplier=SIGMA,
        rounds=50,
        rounds_within_budget=50,
        epsilon_planned=epsilon,
    )


def open_ledger(folder: Path) -> Ledger:
    identity = Identity(folder / "identity.pem")
    return Ledger(folder / "ledger.sqlite", "alder", identity, now=lambda: 1.0)


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
def test_no_sequence_exceeds_the_budget_or_loses_a_charge(
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
    ledger.chain.verify()


def test_budgets_last_across_jobs(tmp_path: Path, accountant: Accountant) -> None:
    for job in ("one", "two"):
        ledger = open_ledger(tmp_path)
        ledger.reserve(job, DATASET, privacy_plan())
        ledger.charge(job, 1, 1, accountant)
        ledger.close()
    lifetime = open_ledger(tmp_path).lifetime(DATASET)
    assert lifetime.jobs == 2 and lifetime.delta == pytest.approx(2e-5)
    assert lifetime.epsilon == pytest.approx(2 * accountant.epsilon_after(1))
    assert open_ledger(tmp_path).lifetime(Dataset("another dataset")).jobs == 0


def test_an_attempt_is_charged_once_and_only_after_a_reservation(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(LedgerError, match="reserved no plan"):
        ledger.charge("job", 1, 1, accountant)
    ledger.reserve("job", DATASET, privacy_plan())
    ledger.charge("job", 1, 1, accountant)
    with pytest.raises(LedgerError, match="already charged"):
        ledger.charge("job", 1, 1, accountant)
    with pytest.raises(LedgerError, match="already reserved"):
        ledger.reserve("job", DATASET, privacy_plan())


def test_a_charge_is_on_disk_when_charge_returns(tmp_path: Path, accountant: Accountant) -> None:
    """A process killed right after `charge` has charged; one killed in it leaves nothing."""

    def charge_and_die(ready: object) -> None:
        ledger = open_ledger(tmp_path)
        ledger.reserve("job", DATASET, privacy_plan())
        ledger.charge("job", 1, 1, accountant)
        ledger.chain.db.execute("BEGIN IMMEDIATE")
        ledger.append(ledger.entries()[-1])  # never committed
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
def test_tampering_is_detected_and_named(
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
            ledger.chain.db.execute(statement)


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).path.stat().st_mode & 0o777 == 0o600


def test_ledgers_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is not a database, it is a text of some length")
    with pytest.raises(LedgerError, match="cannot be used"):
        open_ledger(tmp_path)
    identity = Identity(tmp_path / "identity.pem")
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "file" / "ledger.sqlite", "alder", identity)
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path / "folder", "alder", identity)


def test_a_full_disk_charges_nothing_and_is_reported(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    pages = ledger.chain.db.execute("PRAGMA page_count").fetchone()[0]
    ledger.chain.db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
    with pytest.raises(LedgerError, match="full"):
        for number in range(1, 100):
            ledger.charge("job", number, 1, Accountant(privacy_plan(1e9)))
    ledger.chain.verify()


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


def rewritten(path: Path, budget: str, signer: Identity | None) -> None:
    """Rewrite the file as someone with write access could: other contents, a consistent chain, and
    signatures by another identity or none."""

    with sqlite3.connect(path) as db:
        for trigger in ("no_update", "no_delete"):
            db.execute(f"DROP TRIGGER {trigger}")
        if signer:
            db.execute("UPDATE signers SET public = ?", (signer.public,))
        previous = "0" * 64
        for number, content in db.execute("SELECT number, content FROM entries").fetchall():
            changed = content.replace('"epsilon": 1.0', budget)
            hash_ = sha256(f"ledger\n{previous}\n{changed}".encode()).hexdigest()
            signature = signer.sign(hash_.encode()) if signer else None
            db.execute(
                "UPDATE entries SET content = ?, previous = ?, hash = ?, signature = ? "
                "WHERE number = ?",
                (changed, previous, hash_, signature, number),
            )
            previous = hash_
    db.close()


@pytest.mark.parametrize("forger", ["nobody", "another"])
def test_a_rewritten_chain_needs_the_silos_own_signature(
    tmp_path: Path, accountant: Accountant, forger: str
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    ledger.charge("job", 1, 1, accountant)
    ledger.close()
    signer = Identity(tmp_path / "forger.pem") if forger == "another" else None
    rewritten(ledger.path, '"epsilon": 9.0', signer)
    with pytest.raises(LedgerError, match="not signed|signed by another identity"):
        open_ledger(tmp_path)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE entries SET signature = NULL WHERE number = 3",
            "entry 3 of the ledger .* is not signed",
        ),
        ("UPDATE entries SET signature = zeroblob(3373) WHERE number = 3", "signature of entry 3"),
        ("UPDATE entries SET signature = zeroblob(3373) WHERE number = 2", "signature of entry 2"),
        ("DELETE FROM signers", "signature of entry"),
    ],
)
def test_signatures_that_are_missing_or_wrong_are_named(
    tmp_path: Path, accountant: Accountant, statement: str, said: str
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    for number in (1, 2):
        ledger.charge("job", number, 1, accountant)
    tampered(ledger.path, statement)
    with pytest.raises(LedgerError, match=said):
        ledger.chain.verify(thorough=True)


def test_a_head_saved_elsewhere_reveals_entries_cut_off_from_the_end(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    early = ledger.chain.head()
    ledger.charge("job", 1, 1, accountant)
    head = ledger.chain.head()
    assert ledger.chain.verify(thorough=True, head=head).entries == 2
    tampered(ledger.path, "DELETE FROM entries WHERE number = 2")
    again = open_ledger(tmp_path)  # nothing inside the file reveals it
    again.chain.verify(thorough=True, head=early)
    with pytest.raises(LedgerError, match="the former newest entry 2"):
        again.chain.verify(head=head)
    with pytest.raises(LedgerError, match="is not the head of this ledger"):
        again.chain.verify(head="nonsense")


def test_an_earlier_versions_ledger_and_a_new_identity_need_explicit_adoption(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    ledger.charge("job", 1, 1, accountant)
    ledger.close()
    with sqlite3.connect(ledger.path) as db:  # the form before ledgers were signed
        db.execute("ALTER TABLE entries DROP COLUMN signature")
        db.execute("ALTER TABLE entries DROP COLUMN signer")
        db.execute("DROP TABLE signers")
    db.close()
    with pytest.raises(LedgerError, match="not signed.*blindsum ledger adopt"):
        open_ledger(tmp_path)
    first = Identity(tmp_path / "identity.pem")
    Ledger(ledger.path, "alder", first, adopt=True).charge("job", 2, 1, accountant)
    second = Identity(tmp_path / "second.pem")
    with pytest.raises(LedgerError, match="signed by another identity"):
        Ledger(ledger.path, "alder", second)
    adopted = Ledger(ledger.path, "alder", second, adopt=True)
    adopted.charge("job", 3, 1, accountant)
    found = adopted.chain.verify(thorough=True)
    assert (found.entries, found.unsigned) == (6, 2)
    assert found.signers == (first.public, second.public)
    assert adopted.lifetime(DATASET).epsilon == pytest.approx(accountant.epsilon_after(3))


def test_a_lifetime_limit_refuses_plans_and_charges_over_all_jobs(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger, plan = open_ledger(tmp_path), privacy_plan(50.0)
    one = round_divergences(plan)
    limit = Limit(Limit(0.0, 1e-5).epsilon_of(30.5 * one), 1e-5)  # room for 30 rounds
    ledger.set_limit(limit)
    with pytest.raises(
        LedgerError, match=r"lifetime limit .* At this noise multiplier, 30 rounds still fit"
    ):
        ledger.reserve("too long", DATASET, plan)
    short = replace(plan, rounds=20, rounds_within_budget=20)
    lax = Accountant(privacy_plan(50.0))
    for job in ("first", "second"):  # reserved together: each plan alone would fit
        ledger.reserve(job, DATASET, short)
    for number in range(1, 21):
        ledger.charge("first", number, 1, lax)
    for number in range(1, 11):
        ledger.charge("second", number, 1, lax)
    with pytest.raises(BudgetExceeded, match="would exceed the lifetime limit"):
        ledger.charge("second", 11, 1, lax)
    ledger.reserve("elsewhere", Dataset("another dataset"), short)  # a limit is for each table
    with pytest.raises(
        LedgerError, match=r"past jobs spent .* Not even one round of this plan fits"
    ):
        ledger.reserve("third", DATASET, short)
    with pytest.raises(LedgerError, match="without differential privacy is unbounded"):
        ledger.unprotected("plain", DATASET)
    assert ledger.lifetime_epsilon(DATASET, 1e-5) == Limit(0.0, 1e-5).epsilon_of(30 * one)
    assert len([e for e in ledger.entries() if e.kind == "charge"]) == 30


def test_held_out_records_have_their_own_charges_and_the_larger_spend_counts(
    tmp_path: Path, accountant: Accountant
) -> None:
    """A record is either trained on or held out. Adding both would overstate the spend, and
    ignoring the held-out records would understate it."""
    ledger, plan = open_ledger(tmp_path), privacy_plan(50.0)
    lax = Accountant(plan)
    held_out = replace(
        plan,
        sampling_rate=1.0,
        noise_multiplier=40.0,
        rounds=2,
        rounds_within_budget=2,
        epsilon=9.0,
    )
    evaluated = Accountant(held_out)
    with pytest.raises(LedgerError, match="has reserved no plan"):
        ledger.charge("job", 1, 1, evaluated, "held-out")
    ledger.reserve("job", DATASET, plan, held_out)
    first = ledger.charge("job", 1, 1, lax)
    assert ledger.lifetime(DATASET).epsilon == first
    second = ledger.charge("job", 1, 1, evaluated, "held-out")
    assert second == evaluated.epsilon_after(1)
    with pytest.raises(LedgerError, match="is already charged"):
        ledger.charge("job", 1, 1, evaluated, "held-out")
    assert ledger.lifetime(DATASET).epsilon == max(first, second)
    assert ledger.lifetime(DATASET).jobs == 1
    expected = np.maximum(round_divergences(plan), round_divergences(held_out))
    np.testing.assert_allclose(ledger._spent(DATASET), expected)


def test_a_lifetime_limit_holds_for_held_out_records(tmp_path: Path) -> None:
    ledger, plan = open_ledger(tmp_path), privacy_plan(50.0)
    held_out = replace(
        plan,
        sampling_rate=1.0,
        noise_multiplier=5.0,
        rounds=20,
        rounds_within_budget=20,
        epsilon=9.0,
    )
    one = round_divergences(held_out)
    ledger.set_limit(Limit(Limit(0.0, 1e-5).epsilon_of(10.5 * one), 1e-5))
    few = replace(plan, rounds=2, rounds_within_budget=2)
    with pytest.raises(LedgerError, match=r"would fit: lower privacy\.metrics_epsilon"):
        ledger.reserve("too much", DATASET, few, held_out)
    ledger.reserve("job", DATASET, few, replace(held_out, rounds=10, rounds_within_budget=10))
    lax = Accountant(replace(held_out, epsilon=50.0))
    for number in range(1, 11):
        ledger.charge("job", number, 1, lax, "held-out")
    with pytest.raises(BudgetExceeded):
        ledger.charge("job", 11, 1, lax, "held-out")


def test_no_limit_holds_for_a_table_that_was_used_without_privacy(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.unprotected("plain", DATASET)
    ledger.set_limit(Limit(1000.0, 1e-5))
    with pytest.raises(LedgerError, match="cannot hold"):
        ledger.reserve("job", DATASET, privacy_plan())
    assert ledger.lifetime_epsilon(DATASET, 1e-5) == math.inf


@settings(max_examples=30, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.floats(0.8, 5.0), st.floats(0.01, 1.0), st.integers(1, 300)),
        min_size=1,
        max_size=5,
    ),
    delta=st.floats(1e-9, 1e-2),
)
def test_the_filter_never_undercuts_the_tight_composition(
    jobs: list[tuple[float, float, int]], delta: float
) -> None:
    """For plans fixed in advance, privacy loss distributions give the joint epsilon."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    spent, joint = nothing(), RdpAccountant([float(order) for order in ORDERS])
    for sigma, rate, rounds in jobs:
        plan = replace(privacy_plan(), noise_multiplier=sigma, sampling_rate=rate)
        spent = spent + rounds * round_divergences(plan)
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
        joint.compose(event, rounds)
    ours = Limit(0.0, delta).epsilon_of(spent)
    assert ours >= joint.get_epsilon(delta) * (1 - 1e-6)
    assert Limit(ours * 1.0001, delta).holds(spent) and not Limit(ours * 0.999, delta).holds(spent)


@pytest.mark.parametrize("order", [2.0, 8.0, 256.0])
def test_each_orders_budget_bounds_the_tail_and_all_of_them_share_delta(order: float) -> None:
    """P(loss > epsilon) <= exp(-(a - 1) (epsilon - rho)) at every order; these sum to delta."""
    limit, spent = Limit(30.0, 1e-5), np.full(len(ORDERS), 1e9)
    at = ORDERS.tolist().index(order)
    most = 30.0 - math.log(len(ORDERS) / 1e-5) / (order - 1)
    for rho, holds in ((most * (1 - 1e-9), True), (most * (1 + 1e-9), False)):
        spent[at] = rho
        assert limit.holds(spent) is holds
    assert len(ORDERS) * math.exp(-(order - 1) * (30.0 - most)) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER quiet BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END",
        "CREATE VIEW strange AS SELECT * FROM entries",
        "DROP TRIGGER no_delete",
    ],
)
def test_schema_objects_that_could_hide_entries_are_detected_on_opening(
    tmp_path: Path, statement: str
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.close()
    with sqlite3.connect(ledger.path) as db:
        db.execute(statement)
    db.close()
    if statement.startswith("DROP"):
        open_ledger(tmp_path)  # created again
        return
    with pytest.raises(LedgerError, match="structure of the ledger .* is not the one"):
        open_ledger(tmp_path)


def test_a_ledger_that_is_changed_while_open_is_not_signed(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    for number in (1, 2, 3):
        ledger.charge("job", number, 1, accountant)
    tampered(ledger.path, "DELETE FROM entries WHERE number > 2")
    with pytest.raises(LedgerError, match="entry 4 of the ledger .* changed while"):
        ledger.charge("job", 4, 1, accountant)


def test_an_entry_that_was_not_stored_is_not_a_charge(
    tmp_path: Path, accountant: Accountant
) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    with sqlite3.connect(ledger.path) as db:
        db.execute("CREATE TRIGGER quiet BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END")
    db.close()
    with pytest.raises(LedgerError, match="was not stored"):
        ledger.charge("job", 1, 1, accountant)


def test_only_the_adopted_entries_may_be_unsigned(tmp_path: Path, accountant: Accountant) -> None:
    ledger = open_ledger(tmp_path)
    ledger.reserve("job", DATASET, privacy_plan())
    for number in (1, 2):
        ledger.charge("job", number, 1, accountant)
    tampered(ledger.path, "UPDATE entries SET signature = NULL WHERE number < 3")
    with pytest.raises(LedgerError, match="the first 2 entries of the ledger .* are not signed"):
        open_ledger(tmp_path)


@pytest.mark.parametrize("head", ["", "12", "0:zzz", "²:" + "a" * 64, "9" * 5000 + ":" + "a" * 64])
def test_a_text_that_is_not_a_head_is_refused(tmp_path: Path, head: str) -> None:
    chain = open_ledger(tmp_path).chain
    chain.verify(head=chain.head())
    with pytest.raises(LedgerError, match="is not the head of this ledger"):
        chain.verify(head=head)
    with pytest.raises(LedgerError, match="the former newest entry"):
        chain.verify(head="0:" + "1" * 64)


def test_an_index_that_hides_the_limit_is_detected(tmp_path: Path) -> None:
    """The index has the right definition but false content, by which SQLite would find no limit."""
    ledger = open_ledger(tmp_path)
    ledger.set_limit(Limit(0.5, 1e-5))
    ledger.close()
    with sqlite3.connect(ledger.path) as db:
        ours = db.execute("SELECT sql FROM sqlite_master WHERE name = 'by_kind'").fetchone()
        db.execute("DROP INDEX by_kind")
        db.execute(ours[0] + " WHERE number < 0")
        db.execute("PRAGMA writable_schema = 1")
        db.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'by_kind'", ours)
    db.close()
    with pytest.raises(LedgerError, match="structure of the ledger"):
        open_ledger(tmp_path)


def test_a_file_of_one_kind_cannot_replace_another(tmp_path: Path) -> None:
    """An audit log copied over the ledger was once accepted as a ledger without a limit."""
    signer = Identity(tmp_path / "identity.pem")
    log = AuditLog(tmp_path / "audit.sqlite", "alder", signer)
    log.note("joined", "run-1")
    log.close()
    with pytest.raises(LedgerError, match="was changed, removed or moved"):
        Ledger(tmp_path / "audit.sqlite", "alder", signer)
    ledger = Ledger(tmp_path / "ledger.sqlite", "alder", signer)
    ledger.set_limit(Limit(1.0, 1e-5))
    ledger.close()
    with pytest.raises(LedgerError, match="was changed, removed or moved"):
        AuditLog(tmp_path / "ledger.sqlite", "alder", signer)


@pytest.mark.parametrize(("kind", "opens"), [("limit", True), ("joined", False)])
def test_a_ledger_of_an_earlier_version_is_accepted_but_not_an_audit_log_as_one(
    tmp_path: Path, kind: str, opens: bool
) -> None:
    """The hashes of earlier versions did not cover the kind of file."""
    signer = Identity(tmp_path / "identity.pem")
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path, "alder", signer)
    ledger.set_limit(Limit(1.0, 1e-5))
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_update")
        (content,) = db.execute("SELECT content FROM entries").fetchone()
        content = content.replace('"kind": "limit"', f'"kind": "{kind}"')
        hash_ = sha256(f"{'0' * 64}\n{content}".encode()).hexdigest()
        db.execute(
            "UPDATE entries SET content = ?, hash = ?, signature = ?",
            (content, hash_, signer.sign(hash_.encode())),
        )
        db.execute(TRIGGER)
    db.close()
    if not opens:
        with pytest.raises(LedgerError, match="was changed, removed or moved"):
            Ledger(path, "alder", signer)
        return
    again = Ledger(path, "alder", signer)
    assert again.limit() == Limit(1.0, 1e-5)
    again.set_limit(Limit(2.0, 1e-5))
    again.close()
    assert Ledger(path, "alder", signer).limit() == Limit(2.0, 1e-5)


TRIGGER = (
    "CREATE TRIGGER no_update BEFORE UPDATE ON entries\n"
    "    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
)

"""The audit log is append-only and signed, and changes to it are detected."""

import sqlite3
from pathlib import Path

import pytest

from blindsum.he.identity import Identity
from blindsum.platform.errors import LedgerError
from blindsum.platform.state.audit_log import AuditLog
from blindsum.platform.state.signed_log import Chain, signed_together


def open_log(folder: Path) -> AuditLog:
    identity = Identity(folder / "identity.pem")
    return AuditLog(folder / "audit.sqlite", "alder", identity, now=lambda: 1.0)


def three_events(folder: Path) -> AuditLog:
    log = open_log(folder)
    log.note("joined", "run", roster=["alder", "birch"])
    log.note("charged", "run", 1, 1, epsilon=0.5)
    log.note("sent", "run", 1, 1, purpose="update")
    return log


def test_the_newest_events_and_one_run_s_events_are_found(tmp_path: Path) -> None:
    log = three_events(tmp_path)
    log.note("joined", "another", roster=["alder", "cedar"])
    assert [(e.kind, e.job) for e in log.newest(2)] == [("joined", "another"), ("sent", "run")]
    assert log.of_run("run") == log.events()[:3] and log.of_run("none") == []


def test_events_are_read_back_in_order_and_after_restarts(tmp_path: Path) -> None:
    three_events(tmp_path).close()
    log = open_log(tmp_path)
    log.note("refused", "run", 2, 1, error="FederationError", said="no")
    found = log.events()
    assert [(e.kind, e.round, e.attempt, e.silo) for e in found] == [
        ("joined", 0, 0, "alder"),
        ("charged", 1, 1, "alder"),
        ("sent", 1, 1, "alder"),
        ("refused", 2, 1, "alder"),
    ]
    assert (
        found[1].detail == {"epsilon": 0.5}
        and (tmp_path / "audit.sqlite").stat().st_mode & 0o777 == 0o600
    )
    assert log.chain.verify(thorough=True).entries == 4


def test_events_of_two_files_have_one_signature_and_each_file_verifies_alone(
    tmp_path: Path,
) -> None:
    log, other = open_log(tmp_path), Chain(tmp_path / "other.sqlite", Identity(tmp_path / "id"))
    ledger = Chain(tmp_path / "ledger.sqlite", Identity(tmp_path / "identity.pem"))
    with signed_together(ledger, log.chain, other):
        ledger.append('{"kind": "charge"}')
        log.note_all("run", 1, 1, {"charged": {"epsilon": 0.5}, "sent": {"purpose": "update"}})
    assert [e.kind for e in log.events()] == ["charged", "sent"]
    assert other.verify().entries == 0, "a chain to which nothing was added stays as it was"
    joint = log.chain.export()[-1]["signature"]
    assert ledger.export()[-1]["signature"] == joint and not log.chain.export()[0]["signature"]
    assert ledger.export()[-1]["signed"] == log.chain.export()[-1]["signed"]
    for chain in (ledger, log.chain):
        chain.verify(thorough=True)
    with pytest.raises(ZeroDivisionError), signed_together(ledger, log.chain):
        ledger.append('{"kind": "charge"}')
        log.note("sent", "run", 2, 1)
        raise ZeroDivisionError
    assert len(log.events()) == 2 and ledger.verify().entries == 1
    log.note("sent", "run", 2, 1)
    assert log.chain.verify(thorough=True).entries == 3


def test_a_joint_signature_holds_for_its_own_rows_only(tmp_path: Path) -> None:
    """Whoever can write the file changes the newest row and its hash, and keeps its signature."""
    log = open_log(tmp_path)
    ledger = Chain(tmp_path / "ledger.sqlite", Identity(tmp_path / "identity.pem"))
    with signed_together(ledger, log.chain):
        ledger.append('{"kind": "charge"}')
        log.note("sent", "run", 1, 1, purpose="update")
    content = log.chain.export()[0]["content"].replace("update", "metrics")
    forged = log.chain._hash(content, "0" * 64)
    log.close()
    db = sqlite3.connect(tmp_path / "audit.sqlite")
    (trigger,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'no_update'").fetchone()
    db.execute("DROP TRIGGER no_update")
    db.execute("UPDATE entries SET content = ?, hash = ?", (content, forged))
    db.execute(trigger)
    db.commit()
    db.close()
    with pytest.raises(LedgerError, match="signature of entry 1"):
        open_log(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("content = replace(content, 'update', 'metric')", "entry 2 .*was changed"),
        ("signature = x''", "signature of entry 2"),
        (
            "signature = CAST(substr(signature, 1, 71) || zeroblob(3373) AS BLOB)",
            "signature of entry 2",
        ),
        (
            "signature = CAST('joint' || x'0002' || zeroblob(64) || substr(signature, 72) AS BLOB)",
            "signature of entry 2",
        ),
        ("signature = CAST('joint' || x'00ff' AS BLOB)", "signature of entry 2"),
    ],
)
def test_a_joint_signature_that_does_not_fit_is_refused(
    tmp_path: Path, change: str, said: str
) -> None:
    log = open_log(tmp_path)
    ledger = Chain(tmp_path / "ledger.sqlite", Identity(tmp_path / "identity.pem"))
    with signed_together(ledger, log.chain):
        ledger.append('{"kind": "charge"}')
        log.note_all("run", 1, 1, {"charged": {}, "sent": {"purpose": "update"}})
    log.close()
    db = sqlite3.connect(tmp_path / "audit.sqlite")
    db.executescript(f"DROP TRIGGER no_update; UPDATE entries SET {change} WHERE number = 2;")
    trigger = "CREATE TRIGGER no_update BEFORE UPDATE ON entries\n    BEGIN SELECT "
    db.executescript(f"{trigger}RAISE(ABORT, 'the ledger is append-only'); END;")
    db.close()
    with pytest.raises(LedgerError, match=said):
        open_log(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET content = replace(content, '0.5', '0.1') WHERE number = 2",
        "DELETE FROM entries WHERE number = 2",
        "UPDATE entries SET signature = zeroblob(64) WHERE number = 3",
        (
            "INSERT INTO entries SELECT 4, content, hash, hash || 'x', signature, signer "
            "FROM entries WHERE number = 3"
        ),
    ],
)
def test_a_change_is_detected_when_the_log_is_next_opened(tmp_path: Path, change: str) -> None:
    three_events(tmp_path).close()
    path = tmp_path / "audit.sqlite"
    db = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("DELETE FROM entries")
    db.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;")
    db.executescript(f"{change};")
    db.close()
    with pytest.raises(LedgerError, match=f"the audit log {path}"):
        open_log(tmp_path)


def test_a_log_that_another_identity_wrote_is_refused(tmp_path: Path) -> None:
    """Anyone who replaces the log by a new one lacks the silo's keys."""
    three_events(tmp_path).close()
    (tmp_path / "identity.pem").unlink()
    with pytest.raises(LedgerError, match="is not signed by this silo's identity"):
        open_log(tmp_path)


def test_a_saved_head_reveals_entries_that_were_cut_off(tmp_path: Path) -> None:
    log = three_events(tmp_path)
    head = log.chain.head()
    log.chain.db.executescript("DROP TRIGGER no_delete; DELETE FROM entries WHERE number = 3;")
    assert log.chain.verify(thorough=True).entries == 2
    with pytest.raises(LedgerError, match="the former newest entry 3 of the audit log"):
        log.chain.verify(head=head)

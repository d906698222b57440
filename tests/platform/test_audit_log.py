"""The audit log is append-only and signed, and changes to it are detected."""

import sqlite3
from pathlib import Path

import pytest

from blindsum.he.identity import Identity
from blindsum.platform.errors import LedgerError
from blindsum.platform.state.audit_log import AuditLog


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

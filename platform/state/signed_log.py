"""An append-only table in SQLite whose rows are hash-chained and signed.

A row's hash covers the kind of file, the row's content and the previous hash (as in Haber and
Stornetta, 1991). Its signature covers the hash, and so all earlier rows. If a file of one kind is
put in place of another, no hash verifies. If rows are cut off from the end, the chain still
verifies: compare its head with a copy kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blindsum.platform.errors import LedgerError

_FIRST = "0" * 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    signature BLOB,
    signer INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS signers (number INTEGER PRIMARY KEY, public BLOB NOT NULL UNIQUE) STRICT;
CREATE INDEX IF NOT EXISTS by_job ON entries (json_extract(content, '$.job'));
CREATE INDEX IF NOT EXISTS by_kind ON entries (json_extract(content, '$.kind'));
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class Signer(Protocol):
    """A silo's identity: `blindsum.he.identity.Identity`."""

    @property
    def public(self) -> bytes:
        """The identity's public keys."""

    def sign(self, content: bytes) -> bytes:
        """Sign content with all of the identity's keys."""

    def holds(self, public: bytes, signature: bytes, content: bytes) -> bool:
        """Return whether this is that public identity's signature of that content."""


@dataclass(frozen=True)
class Verified:
    """The result of verifying an intact chain.

    `entries` is the number of entries; `unsigned` the number of oldest entries without a signature,
    from an earlier version; `signers` the public identities that signed, in the order in which
    they took over.
    """

    entries: int
    unsigned: int
    signers: tuple[bytes, ...]


class Chain:
    """The hash-chained table in one file, created with mode 0600 if missing.

    Args:
        called: the kind of file, for messages and for every hash.
        hint: what to do about a broken chain, for messages.
        earlier: kinds of entries with which a file of an earlier version may begin. The hashes of
            that version did not cover the kind of file.

    Raises:
        LedgerError: the file cannot be opened, is not such a table, or its chain is broken.
    """

    def __init__(
        self,
        path: Path,
        signer: Signer,
        called: str = "ledger",
        hint: str = "Restore the ledger from a backup: without it the spend is unknown.",
        earlier: Collection[str] = (),
    ) -> None:
        self._earlier = frozenset(earlier)
        self._path, self._signer = path, signer
        self._called, self._hint = called, hint
        with self.explained():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            # An actor's methods may change threads; Ray still runs them one at a time.
            self.db = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
            self.db.execute("PRAGMA journal_mode = WAL")  # one flush to disk per entry
            self.db.execute("PRAGMA synchronous = FULL")
            # In kB. A small cache is enough: reads go through the operating system's cache.
            self.db.execute("PRAGMA cache_size = -256")
            self.db.executescript(_SCHEMA)
            columns = {row[1] for row in self.db.execute("PRAGMA table_info(entries)")}
            if "signature" not in columns:  # an earlier version wrote the file
                self.db.execute("ALTER TABLE entries ADD COLUMN signature BLOB")
                self.db.execute("ALTER TABLE entries ADD COLUMN signer INTEGER")
            self._require_own_schema()
        self.verified = self.verify()
        self._seen = self._last()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run checks and appends as one transaction, which no other process can interleave with."""
        with self.explained():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                newest = self._last()
                self.db.execute("COMMIT")
                self._seen = newest
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def append(self, content: str) -> None:
        """Append one row, inside a transaction."""
        number, previous = self._last()
        kept = self.db.execute(
            "SELECT hash FROM entries WHERE number = ?", self._seen[:1]
        ).fetchone()
        if (kept or (_FIRST,))[0] != self._seen[1]:
            raise self._broken(f"entry {self._seen[0]}", "was changed while the file was open")
        hash_, public = self._hash(content, previous), self._signer.public
        self.db.execute("INSERT OR IGNORE INTO signers (public) VALUES (?)", (public,))
        (signer,) = self.db.execute(
            "SELECT number FROM signers WHERE public = ?", (public,)
        ).fetchone()
        signature = self._signer.sign(hash_.encode())
        self.db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (number + 1, content, previous, hash_, signature, signer),
        )
        if self._last() != (number + 1, hash_):
            raise self._broken("a new entry", "was not stored")

    def head(self) -> str:
        """Return the number and hash of the newest row, "12:ab…".

        A copy kept elsewhere reveals later whether rows are missing from the end.
        """
        with self.explained():
            number, hash_ = self._last()
        return f"{number}:{hash_}"

    def verify(self, thorough: bool = False, head: str | None = None) -> Verified:
        """Check every hash, and the newest signature, which covers all rows.

        Args:
            thorough: check every signature.
            head: an earlier return value of `head`; the chain must still have that row.

        Raises:
            LedgerError: the chain is broken; names the first entry that does not fit.
        """
        with self.explained():
            rows = self.db.execute(
                "SELECT number, content, previous, hash, signature, signer FROM entries "
                "ORDER BY number"
            ).fetchall()
            known = dict(self.db.execute("SELECT number, public FROM signers").fetchall())
        previous, unsigned, old = _FIRST, 0, True
        signers: list[bytes] = []
        for expected, (number, content, before, hash_, signature, signer) in enumerate(rows, 1):
            old = old and self._is_earlier(content, previous, hash_)
            fits = old or hash_ == self._hash(content, previous)
            if (number, before) != (expected, previous) or not fits:
                raise self._broken(f"entry {expected}", "was changed, removed or moved")
            previous = hash_
            if signature is None:
                unsigned += 1
                if signers:
                    raise self._broken(f"entry {expected}", "is not signed")
                continue
            if not signers and unsigned and _adopted(content) != unsigned:
                raise self._broken(f"the first {unsigned} entries", "are not signed")
            public = known.get(signer, b"")
            checked = thorough or expected == len(rows)
            if checked and not self._signer.holds(public, signature, hash_.encode()):
                raise self._broken(f"the signature of entry {expected}", "does not verify")
            if public not in signers[-1:]:
                signers.append(public)
        if head is not None:
            self._require(head, [row[3] for row in rows])
        return Verified(len(rows), unsigned, tuple(signers))

    def export(self) -> list[dict[str, Any]]:
        """Return every row with hash, signature and signer in hex, enough to verify the chain."""
        with self.explained():
            rows = self.db.execute(
                "SELECT content, hash, lower(hex(signature)), lower(hex(public)) FROM entries "
                "LEFT JOIN signers ON signer = signers.number ORDER BY entries.number"
            ).fetchall()
        return [dict(zip(("content", "hash", "signature", "signer"), r, strict=True)) for r in rows]

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def _require_own_schema(self) -> None:
        """Refuse a foreign schema: other triggers, views or indexes could hide or drop entries."""
        reference = sqlite3.connect(":memory:")
        reference.executescript(_SCHEMA)
        asked = "SELECT type, name, CASE type WHEN 'table' THEN '' ELSE sql END FROM sqlite_master"
        ours, theirs = (set(db.execute(asked)) for db in (reference, self.db))
        reference.close()
        checked = self.db.execute("PRAGMA integrity_check").fetchall()
        if ours != theirs or checked != [("ok",)]:
            raise self._broken("the structure", "is not the one that Blindsum creates")

    def _hash(self, content: str, previous: str) -> str:
        return hashlib.sha256(f"{self._called}\n{previous}\n{content}".encode()).hexdigest()

    def _is_earlier(self, content: str, previous: str, hash_: str) -> bool:
        """Return whether an earlier version wrote that row into a file of this kind."""
        if hash_ != hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest():
            return False
        try:
            return json.loads(content)["kind"] in self._earlier
        except (ValueError, TypeError, KeyError):
            return False

    def _last(self) -> tuple[int, str]:
        number, hash_ = self.db.execute(
            "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, _FIRST)
        return number, hash_

    def _require(self, head: str, hashes: list[str]) -> None:
        number, _, kept = head.partition(":")
        if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", head):
            raise LedgerError(
                f"{head[:20]!r} is not the head of this {self._called}",
                "A head is a number, a colon and 64 hexadecimal digits, as it was printed.",
            )
        if int(number) > len(hashes) or [_FIRST, *hashes][int(number)] != kept:
            raise self._broken(f"the former newest entry {number}", "is missing")

    def _broken(self, what: str, how: str) -> LedgerError:
        return LedgerError(
            f"{what} of the {self._called} {self._path} {how}",
            self._hint,
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise errors of SQLite and the disk as a LedgerError that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            # SQLite quotes the content that it cannot read, which need not be text.
            quoting = isinstance(error, UnicodeDecodeError)
            raise LedgerError(
                f"the {self._called} {self._path} cannot be used: "
                f"{'its content is damaged' if quoting else error}",
                "Check that the disk has room and the folder is writable, and that the file is "
                f"this silo's {self._called}. Without it the silo does not train or send anything.",
            ) from None


def _adopted(content: str) -> int:
    """Return the number of unsigned entries that this entry adopts, from its `round` field."""
    try:
        entry = json.loads(content)
        return int(entry["round"]) if entry["kind"] == "identity" else 0
    except (ValueError, TypeError, KeyError):
        return 0

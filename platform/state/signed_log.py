"""An append-only table in SQLite whose rows are hash-chained and signed.

A row's hash covers the kind of file, the row's content and the previous hash (as in Haber and
Stornetta, 1991). A signature covers the hash, and so all earlier rows. Rows of one transaction have
one signature, that of the last of them. Transactions in two files at once have one signature too,
of both newest hashes (`signed_together`): each file verifies alone. If a file of one kind is
put in place of another, no hash verifies. If rows are cut off from the end, the chain still
verifies: compare its head with a copy kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blindsum.platform.errors import LedgerError

_FIRST = "0" * 64
_FOLLOWING = b""
"""The signature of a row that the next one signs."""

_JOINT, _LABEL = b"joint\0", "blindsum signature of several chains"
"""A signature of the newest rows of several files begins so, with their number and hashes."""

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
        self._open: tuple[str, str] | None = None  # content and previous hash of the newest row
        self._number: int | None = None  # the signer's
        self.verified = self.verify()
        self._seen = self._tip = self._last()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run checks and appends as one transaction, which no other process can interleave with. A
        transaction inside another is part of it. The last row's signature covers all of them."""
        with nullcontext() if self.db.in_transaction else signed_together(self), self.explained():
            yield

    def append(self, content: str) -> None:
        """Append one row, inside a transaction."""
        self._store(_FOLLOWING)
        number, previous = self._tip
        self._tip = number + 1, self._hash(content, previous)
        self._open = content, previous

    def _begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self._tip, self._open = self._last(), None
        kept = self.db.execute(
            "SELECT hash FROM entries WHERE number = ?", self._seen[:1]
        ).fetchone()
        if (kept or (_FIRST,))[0] != self._seen[1]:
            raise self._broken(f"entry {self._seen[0]}", "was changed while the file was open")

    def _store(self, signature: bytes) -> None:
        """Store the row that was appended last."""
        if self._open is None:
            return
        (number, hash_), (content, previous) = self._tip, self._open
        self._open = None
        if self._number is None:
            public = self._signer.public
            self.db.execute("INSERT OR IGNORE INTO signers (public) VALUES (?)", (public,))
            (self._number,) = self.db.execute(
                "SELECT number FROM signers WHERE public = ?", (public,)
            ).fetchone()
        self.db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (number, content, previous, hash_, signature, self._number),
        )

    def _commit(self) -> None:
        if self._last() != self._tip:
            raise self._broken("a new entry", "was not stored")
        self.db.execute("COMMIT")
        self._seen = self._tip

    def _take_back(self) -> None:
        if self.db.in_transaction:
            self._open = self._number = None
            self.db.execute("ROLLBACK")

    def head(self) -> str:
        """Return the number and hash of the newest row, "12:ab…".

        A copy kept elsewhere reveals later whether rows are missing from the end.
        """
        with self.explained():
            number, hash_ = self._tip if self.db.in_transaction else self._last()
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
            public, last = known.get(signer, b""), expected == len(rows)
            # The next signature covers a row that has none, and so belongs to the same identity.
            if signature == _FOLLOWING and not last and rows[expected][5] == signer:
                continue
            checked = thorough or last
            if checked and not self._is_signed(public, signature, hash_):
                raise self._broken(f"the signature of entry {expected}", "does not verify")
            if public not in signers[-1:]:
                signers.append(public)
        if head is not None:
            self._require(head, [row[3] for row in rows])
        return Verified(len(rows), unsigned, tuple(signers))

    def export(self) -> list[dict[str, Any]]:
        """Return every row with hash, signature and signer in hex, and the text that is signed:
        enough to verify the chain. A row that the next one signs has an empty signature."""
        with self.explained():
            rows = self.db.execute(
                "SELECT content, hash, signature, lower(hex(public)) FROM entries "
                "LEFT JOIN signers ON signer = signers.number ORDER BY entries.number"
            ).fetchall()
        found = []
        for content, hash_, stored, signer in rows:
            signature, hashes = _parted(stored or b"", hash_)
            signed = _signed_content(hashes).decode() if signature else ""
            row = {"content": content, "hash": hash_, "signed": signed}
            found.append(row | {"signature": signature.hex(), "signer": signer})
        return found

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

    def _is_signed(self, public: bytes, signature: bytes, hash_: str) -> bool:
        """Return whether that is the signature of a row of that hash, alone or with others."""
        alone, hashes = _parted(signature, hash_)
        return hash_ in hashes and self._signer.holds(public, alone, _signed_content(hashes))

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


@contextmanager
def signed_together(*chains: Chain) -> Iterator[None]:
    """Run a transaction of each chain, and sign the last rows of all of them with one signature of
    the first chain's signer. They are committed in order: a crash may leave out the last ones.

    Raises:
        LedgerError: one of them cannot be written.
    """
    try:
        for chain in chains:
            with chain.explained():
                chain._begin()
        yield
        written = [chain for chain in chains if chain._open]
        signature = _joint(chains[0]._signer, [chain._tip[1] for chain in written])
        for chain in written:
            with chain.explained():
                chain._store(signature)
        for chain in chains:
            with chain.explained():
                chain._commit()
    except BaseException:
        for chain in chains:
            chain._take_back()
        raise


def _joint(signer: Signer, hashes: Sequence[str]) -> bytes:
    """Return the signature of rows of those hashes, each of which is in another file."""
    if not hashes:
        return b""
    signature = signer.sign(_signed_content(hashes))
    if len(hashes) == 1:
        return signature
    return _JOINT + bytes([len(hashes)]) + bytes.fromhex("".join(hashes)) + signature


def _parted(signature: bytes, hash_: str) -> tuple[bytes, list[str]]:
    """Return a stored signature alone, and the hashes of the rows that it says it covers."""
    if not signature.startswith(_JOINT):
        return signature, [hash_]
    start = len(_JOINT) + 1
    end = start + 32 * signature[len(_JOINT)]
    return signature[end:], [signature[at : at + 32].hex() for at in range(start, end, 32)]


def _signed_content(hashes: Sequence[str]) -> bytes:
    return hashes[0].encode() if len(hashes) == 1 else "\n".join([_LABEL, *hashes]).encode()


def _adopted(content: str) -> int:
    """Return the number of unsigned entries that this entry adopts, from its `round` field."""
    try:
        entry = json.loads(content)
        return int(entry["round"]) if entry["kind"] == "identity" else 0
    except (ValueError, TypeError, KeyError):
        return 0

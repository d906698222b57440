"""The coordinator's book: enrolled silos, invitations, proposals, and what the owners decided.

A SQLite file in the coordinator's folder. The command line and the serving process open it at the
same time, with mode 0600. It holds no key of a silo; its only secrets are invitations.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blindsum.actors.separate.messages import Decision, Proposal, packed
from blindsum.platform.errors import ClusterError, JobError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS silos (
    name TEXT PRIMARY KEY, identity BLOB NOT NULL, enrolled REAL NOT NULL, seen REAL, version TEXT,
    address TEXT) STRICT;
CREATE TABLE IF NOT EXISTS invitations (
    secret BLOB PRIMARY KEY, silo TEXT NOT NULL, until REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS proposers (secret BLOB PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS proposals (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, content TEXT NOT NULL, code TEXT NOT NULL,
    proposed REAL NOT NULL, state TEXT NOT NULL, run TEXT, note TEXT, forced INTEGER NOT NULL)
    STRICT;
CREATE TABLE IF NOT EXISTS decisions (
    proposal TEXT NOT NULL, silo TEXT NOT NULL, verdict TEXT NOT NULL, weights TEXT NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (proposal, silo)) STRICT;
"""
OPEN = ("proposed", "running", "interrupted")
MOST_OPEN = 64
UNPROVEN = "0" * 64
"""Stands for the proof in a message while the proof is computed."""


@dataclass(frozen=True, kw_only=True)
class EnrolledSilo:
    """A silo that may connect. `seen` is seconds since 1970, None if it never connected."""

    name: str
    identity: bytes
    seen: float | None
    version: str | None
    address: str | None


@dataclass(frozen=True, kw_only=True)
class ProposedJob:
    """A proposal and its state: proposed, running, interrupted, finished, failed or withdrawn.

    Attributes:
        code: contents of the files of a `model.factory`, by name.
        note: why it ended, for people.
        forced: the operator starts it with those silos that have approved.
    """

    digest: str
    name: str
    job: str
    code: Mapping[str, bytes]
    proposed: float
    state: str
    run: str | None
    note: str | None
    forced: bool

    @property
    def roster(self) -> list[str]:
        """The silos that the job names."""
        return [silo["name"] for silo in json.loads(self.job)["silos"]]

    @property
    def least(self) -> int:
        """The fewest silos with which it can run."""
        content = json.loads(self.job)
        return int(content["quorum"] or len(content["silos"]))

    @property
    def message(self) -> Proposal:
        """The proposal as silos receive it; the files' contents are its attachments."""
        return Proposal(name=self.name, job=self.job, code=tuple(self.code))


def proposal_digest(proposal: Proposal, code: list[bytes]) -> str:
    """Return the SHA-256, in hex, of everything in a proposal. Silos compute it themselves."""
    return hashlib.sha256(packed(proposal, code)).hexdigest()


class Registry:
    """The book in a coordinator's folder.

    Args:
        now: the clock, seconds since 1970.

    Raises:
        ClusterError: the file cannot be used.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = path, now
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise ClusterError(f"{path} cannot be used: {error.strerror}") from None
        with self._connected() as db:
            db.executescript(_SCHEMA)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self._path, timeout=30)
            db.row_factory = sqlite3.Row
            try:
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise ClusterError(
                f"{self._path} cannot be used: {error}",
                "Check that the disk has room, or restore the file from a backup.",
            ) from None

    # -- silos -----------------------------------------------------------------------------

    def silos(self) -> dict[str, EnrolledSilo]:
        """Return every enrolled silo, by name."""
        with self._connected() as db:
            rows = db.execute("SELECT name, identity, seen, version, address FROM silos").fetchall()
        return {row["name"]: EnrolledSilo(**dict(row)) for row in rows}

    def silo(self, name: str) -> EnrolledSilo | None:
        """Return one enrolled silo, or None."""
        return self.silos().get(name)

    def invite(self, silo: str, hours: float) -> bytes:
        """Return the secret of a new invitation, 16 bytes."""
        secret = secrets.token_bytes(16)
        with self._connected() as db:
            db.execute("DELETE FROM invitations WHERE until < ?", (self._now(),))
            db.execute(
                "INSERT INTO invitations VALUES (?, ?, ?)",
                (secret, silo, self._now() + 3600 * hours),
            )
        return secret

    def invitations(self, silo: str) -> list[bytes]:
        """Return the secrets of a silo's invitations that can still be used."""
        with self._connected() as db:
            rows = db.execute(
                "SELECT secret FROM invitations WHERE silo = ? AND until > ?", (silo, self._now())
            ).fetchall()
        return [row["secret"] for row in rows]

    def enrol(self, silo: str, identity: bytes, secret: bytes) -> None:
        """Enrol a silo, or replace its identity, and use up its invitation.

        Raises:
            ClusterError: the invitation was used in the meantime.
        """
        with self._connected() as db:
            used = db.execute("DELETE FROM invitations WHERE secret = ?", (secret,)).rowcount
            if used != 1:
                raise ClusterError("this invitation was used before", "Ask for another one.")
            db.execute(
                "INSERT OR REPLACE INTO silos VALUES (?, ?, ?, NULL, NULL, NULL)",
                (silo, identity, self._now()),
            )

    def seen(self, silo: str, version: str, address: str) -> None:
        """Note that a silo's agent is connected."""
        with self._connected() as db:
            db.execute(
                "UPDATE silos SET seen = ?, version = ?, address = ? WHERE name = ?",
                (self._now(), version, address, silo),
            )

    def add_proposer(self, name: str) -> bytes:
        """Return the secret of a new proposer's token, 16 bytes."""
        secret = secrets.token_bytes(16)
        with self._connected() as db:
            db.execute("INSERT INTO proposers VALUES (?, ?)", (secret, name))
        return secret

    def proposers(self) -> dict[bytes, str]:
        """Return the names of those who may propose, by their tokens' secrets."""
        with self._connected() as db:
            return dict(db.execute("SELECT secret, name FROM proposers").fetchall())

    def use_nonce(self, nonce: str) -> None:
        """Note a proposal's nonce. Raises ClusterError if it was used before."""
        with self._connected() as db:
            if not db.execute("INSERT OR IGNORE INTO nonces VALUES (?)", (nonce,)).rowcount:
                raise ClusterError("this proposal was made before")

    # -- proposals -------------------------------------------------------------------------

    def propose(self, proposal: Proposal, code: Mapping[str, bytes]) -> str:
        """Add a proposal; returns its digest.

        Raises:
            JobError: the same job is open already, or too many are.
        """
        digest = proposal_digest(proposal, list(code.values()))
        open_ = [one for one in self.proposals() if one.state in OPEN]
        if digest in {one.digest for one in open_}:
            raise JobError("this job is proposed already", "See: blindsum coordinator status")
        if len(open_) >= MOST_OPEN:
            raise JobError(f"{MOST_OPEN} jobs are open already", "Wait until some have ended.")
        files = json.dumps({name: content.hex() for name, content in code.items()})
        with self._connected() as db:
            db.execute("DELETE FROM decisions WHERE proposal = ?", (digest,))
            db.execute(
                "INSERT OR REPLACE INTO proposals "
                "VALUES (?, ?, ?, ?, ?, 'proposed', NULL, NULL, 0)",
                (digest, proposal.name, proposal.job, files, self._now()),
            )
        return digest

    def proposals(self) -> list[ProposedJob]:
        """Return every proposal, oldest first."""
        with self._connected() as db:
            rows = db.execute("SELECT * FROM proposals ORDER BY proposed").fetchall()
        return [
            ProposedJob(
                digest=row["digest"],
                name=row["name"],
                job=row["content"],
                code={k: bytes.fromhex(v) for k, v in json.loads(row["code"]).items()},
                proposed=row["proposed"],
                state=row["state"],
                run=row["run"],
                note=row["note"],
                forced=bool(row["forced"]),
            )
            for row in rows
        ]

    def open_for(self, silo: str) -> list[ProposedJob]:
        """Return the open proposals in which a silo is named."""
        return [one for one in self.proposals() if one.state in OPEN and silo in one.roster]

    def latest_for(self, silo: str) -> list[ProposedJob]:
        """Return the open and the last 64 ended proposals in which a silo is named."""
        mine = [one for one in self.proposals() if silo in one.roster]
        ended = [one for one in mine if one.state not in OPEN]
        return [*ended[-64:], *(one for one in mine if one.state in OPEN)]

    def proposal(self, start: str) -> ProposedJob:
        """Return the proposal whose digest begins so, or the newest of that name.

        Raises:
            JobError: there is none, or several.
        """
        found = [one for one in self.proposals() if one.digest.startswith(start)] if start else []
        found = found or [one for one in self.proposals() if one.name == start][-1:]
        if len(found) != 1:
            many = "several proposals begin" if found else "no proposal begins"
            raise JobError(f"{many} with {start!r}", "See: blindsum coordinator status")
        return found[0]

    def note(
        self, digest: str, state: str, run: str | None = None, note: str | None = None
    ) -> None:
        """Set a proposal's state; run and note stay if they are None."""
        with self._connected() as db:
            db.execute(
                "UPDATE proposals SET state = ?, run = coalesce(?, run), note = coalesce(?, note) "
                "WHERE digest = ?",
                (state, run, note, digest),
            )

    def force(self, digest: str) -> None:
        """Let a proposal start with those silos that have approved it."""
        with self._connected() as db:
            db.execute("UPDATE proposals SET forced = 1 WHERE digest = ?", (digest,))

    def decide(self, silo: str, decision: Decision) -> None:
        """Note what a silo's owner decided."""
        one = decision
        with self._connected() as db:
            db.execute(
                "INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?, ?)",
                (one.proposal, silo, one.verdict, one.weights, one.reason, self._now()),
            )

    def decisions(self, digest: str) -> dict[str, Decision]:
        """Return the decisions about a proposal, by silo."""
        with self._connected() as db:
            rows = db.execute("SELECT * FROM decisions WHERE proposal = ?", (digest,)).fetchall()
        return {
            row["silo"]: Decision(
                proposal=digest,
                verdict=row["verdict"],
                weights=row["weights"],
                reason=row["reason"],
            )
            for row in rows
        }


def proof(secret: bytes, *content: bytes) -> str:
    """Return HMAC-SHA256 (RFC 2104), in hex, over contents and their lengths."""
    framed = b"".join(len(one).to_bytes(8, "big") + one for one in content)
    return hmac.digest(secret, framed, "sha256").hex()

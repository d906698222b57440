"""The audit log: an append-only, hash-chained, signed record of what a silo joined and sent.

It lies in the silo's state folder, beside the ledger, which records the spend. An upload is written
to the log on disk, with its charge, before anything is computed for it, so that after a crash or an
error the log may list an upload too many, never one too few. Other events are written after they
happen; if a crash keeps a charge
out of the log, the ledger still has it. No entry depends on a record, except through figures that
were released anyway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blindsum.platform.errors import LedgerError
from blindsum.platform.state.signed_log import Chain, Signer

MEND = "Keep the file, but move it elsewhere: a new log is then started."
EARLIER = ("joined", "charged", "sent", "refused")
Kind = Literal["inspected", "joined", "charged", "sent", "ended", "refused"]


@dataclass(frozen=True)
class Event:
    """One entry of the log. `time` is in seconds since 1970, UTC; `job` is the run's name; `round`
    and `attempt` are 0 outside rounds. `detail` depends on the kind:

    inspected: the job's digest, before the table is read
    joined: the job's digest, the roster and its identities' fingerprints, once all have signed
    charged: the epsilon spent so far, and the ledger's head
    sent: the exchange's purpose, digest and roster
    ended: the digest of the model that this silo computed and would release, after the last round
    refused: the error's class and message
    """

    kind: Kind
    time: float
    job: str
    silo: str
    round: int = 0
    attempt: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


class AuditLog:
    """One silo's audit log.

    Args:
        path: the SQLite file; created with mode 0600 if missing.
        signer: the silo's identity.
        now: the clock, seconds since 1970.

    Raises:
        LedgerError: the file cannot be opened, is not an audit log, has a broken chain, or was
            written by another identity.
    """

    def __init__(
        self, path: Path, silo: str, signer: Signer, now: Callable[[], float] = time.time
    ) -> None:
        self.path, self._silo, self._now = path, silo, now
        self.chain = Chain(path, signer, "audit log", MEND, EARLIER)
        found = self.chain.verified
        if found.entries and signer.public not in found.signers[-1:]:
            raise LedgerError(
                f"the newest entry of the audit log {path} is not signed by this silo's identity",
                MEND,
            )

    def note(
        self, kind: Kind, job: str, round: int = 0, attempt: int = 0, **detail: object
    ) -> None:
        """Write one event to disk.

        Raises:
            LedgerError: it cannot be written.
        """
        self.note_all(job, round, attempt, {kind: detail})

    def note_all(
        self, job: str, round: int, attempt: int, details: Mapping[Kind, Mapping[str, object]]
    ) -> None:
        """Write several events to disk at once, under one signature.

        Raises:
            LedgerError: they cannot be written.
        """
        with self.chain.transaction():
            for kind, detail in details.items():
                event = Event(kind, self._now(), job, self._silo, round, attempt, dict(detail))
                self.chain.append(json.dumps(vars(event), sort_keys=True))

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return [Event(**json.loads(row["content"])) for row in self.chain.export()]

    def newest(self, count: int) -> list[Event]:
        """Return the newest events, the newest first."""
        with self.chain.explained():
            rows = self.chain.db.execute(
                "SELECT content FROM entries ORDER BY number DESC LIMIT ?", (count,)
            ).fetchall()
        return [Event(**json.loads(content)) for (content,) in rows]

    def of_run(self, run: str) -> list[Event]:
        """Return all events of one run, oldest first."""
        with self.chain.explained():
            rows = self.chain.db.execute(
                "SELECT content FROM entries WHERE json_extract(content, '$.job') = ? "
                "ORDER BY number",
                (run,),
            ).fetchall()
        return [Event(**json.loads(content)) for (content,) in rows]

    def close(self) -> None:
        """Close the database."""
        self.chain.close()

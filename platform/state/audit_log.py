"""What a silo took part in and what left it: an append-only, hash-chained, signed log in the silo's folder.

Beside the ledger, which says what was spent. An upload is noted on disk before any of it leaves: a crash can leave
one too many, never one too few. The other events are noted when they have happened; of a charge that a crash
kept out the ledger has the entry. Nothing here depends on a record, but for what was released anyway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from blindsum.platform.errors import LedgerError
from blindsum.platform.state.signed_log import Chain, Signer

MEND = "Keep it, and move it away to begin a new one."
EARLIER = ("joined", "charged", "sent", "refused")
Kind = Literal["inspected", "joined", "charged", "sent", "refused"]


@dataclass(frozen=True)
class Event:
    """One line of the log. `time` is seconds since 1970, UTC; `job` the run's name; round and attempt are 0
    outside rounds. `detail`, by kind:

    inspected: the job's digest, before the table is read
    joined: the job's digest, the roster and its identities' fingerprints, once all have signed
    charged: epsilon so far, and the ledger's head
    sent: purpose and digest of the exchange, and its roster
    refused: which error, and what it says
    """

    kind: Kind
    time: float
    job: str
    silo: str
    round: int = 0
    attempt: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


class AuditLog:
    """One silo's log.

    Args:
        path: the SQLite file; made with mode 0600 if missing.
        signer: the silo's identity.
        now: the clock, seconds since 1970.

    Raises:
        LedgerError: the file cannot be opened, is no such log, its chain is broken, or another identity
            wrote it.
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
        event = Event(kind, self._now(), job, self._silo, round, attempt, detail)
        with self.chain.transaction():
            self.chain.append(json.dumps(asdict(event), sort_keys=True))

    def events(self) -> list[Event]:
        """All events, oldest first."""
        return [Event(**json.loads(row["content"])) for row in self.chain.export()]

    def close(self) -> None:
        """Close the database."""
        self.chain.close()

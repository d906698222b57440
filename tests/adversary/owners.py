"""A machine with an owner's file, for tests that play the parties around it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from blindsum.actors.vault import open_identity
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import Approvals
from blindsum.platform.state.ledger import Ledger


class Machine:
    """One owner's machine: its file, its state and its approvals."""

    def __init__(
        self,
        folder: Path,
        names: list[str],
        tables: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.state = folder / "srv" / names[0]
        self.path = folder / "etc" / "silo.yaml"
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self.content = {
            "names": names,
            "state": str(self.state),
            "datasets": {alias: {"path": str(path)} for alias, path in tables.items()},
        }
        self.write()
        monkeypatch.setattr("blindsum.platform.job.owner.places", lambda: (self.path,))

    def write(self, **changes: object) -> None:
        self.content |= changes
        self.path.write_text(yaml.safe_dump(self.content))
        self.path.chmod(0o600)

    def ledger(self) -> Ledger:
        return Ledger(self.state / "ledger.sqlite", "alder", open_identity(self.state))

    def approve(self, job: Job, weights: str, runs: int = 1, until: float = 4e9) -> None:
        ledger = self.ledger()
        Approvals(ledger).give(job, weights, runs, until)
        ledger.close()

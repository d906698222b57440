"""Proposals in an organisation's inbox, without a connection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.messages import Proposal
from blindsum.actors.separate.registry import proposal_digest
from blindsum.platform.job.owner import Owner, read_owner
from blindsum.platform.job.schema import Job
from tests.actors.separate.organisations import Coordinator, Organisation


class Desk:
    """A silo's owner with an inbox."""

    def __init__(self, folder: Path, table: Path, **file: Any) -> None:
        self.coordinator = Coordinator(folder / "coordinator")
        self.organisation = Organisation(folder / "alder", "alder", table, self.coordinator, **file)
        self.owner: Owner = read_owner(self.organisation.file)
        self.inbox = Inbox(self.owner.state)

    def receive(self, job: Job, code: Mapping[str, bytes] | None = None) -> str:
        """Put a proposal into the inbox, and return its digest."""
        code = code or {}
        proposal = Proposal(name=job.name, job=job.model_dump_json(), code=tuple(code))
        digest = proposal_digest(proposal, list(code.values()))
        self.inbox.add(digest, proposal, list(code.values()))
        return digest

    def close(self) -> None:
        self.coordinator.close()


def proposed(content: Mapping[str, Any], **changes: Any) -> Job:
    """Make a job for silos with owner's files of their own; `changes` replace whole sections."""
    silos = [{"name": silo["name"], "data": "tumours"} for silo in content["silos"]]
    return Job.model_validate({**content, "silos": silos, **changes})

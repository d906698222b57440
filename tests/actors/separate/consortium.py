"""Federations over separate clusters, from the proposal to the rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from blindsum.actors.federation import Federation
from blindsum.platform.job.file import load_job
from blindsum.platform.job.schema import Job
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.conftest import job_content, ledger_of

TWO = ("alder", "birch")


def shared_job(folder: Path, silos: Sequence[str] = TWO, *overrides: str) -> Job:
    """The tests' small job, of silos with an owner's file."""
    content = job_content(folder)
    content["deadlines"] = {"start_s": 60, "round_s": 60}
    content["silos"] = [{"name": name, "data": "tumours"} for name in silos]
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_job(path, overrides).job


class Consortium:
    """A coordinator and organisations that are connected to it until the end of the test."""

    def __init__(self, folder: Path, tables: dict[str, Path], **coordinator: Any) -> None:
        self.folder, self._tables, self._ending = folder, tables, ExitStack()
        self.coordinator = Coordinator(folder / "coordinator", **coordinator)
        self.organisations: dict[str, Organisation] = {}
        self._ending.callback(self.coordinator.close)

    def enrol(self, name: str, **file: Any) -> Organisation:
        """Enrol an organisation; its agent is not started."""
        made = Organisation(self.folder / name, name, self._tables[name], self.coordinator, **file)
        self.organisations[name] = made
        return made

    def start(self, name: str, url: str | None = None, **how: Any) -> None:
        """Start an agent, and stop it at the end; keywords as `Organisation.start`."""
        self.organisations[name].start(url=url, **how)
        self._ending.callback(self.organisations[name].stop)

    def start_all(self, job: Job, url: str | None = None) -> None:
        """Enrol and start an organisation for each silo of a job."""
        for name in job.roster:
            self.enrol(name)
            self.start(name, url)

    def connected(self, name: str) -> bool:
        return self.coordinator.gate.connected(name)

    @contextmanager
    def federation(self, job: Job, run: str = "run", silent_s: float = 30) -> Iterator[Federation]:
        """A federation whose silos have approved the job and have their keys."""
        proposal = self.coordinator.propose(job)
        for name in job.roster:
            self.organisations[name].approve(proposal)
        decisions = self.coordinator.registry.decisions
        until(lambda: [d.verdict for d in decisions(proposal).values()].count("approved") == 2)
        cluster = self.coordinator.cluster(proposal, job, silent_s)
        federation = Federation(job, run, "", cluster)
        try:
            federation.inspect()
            federation.exchange_keys()
            yield federation
        finally:
            federation.close()
            cluster.close()

    def charges(self, name: str) -> list[tuple[int, int]]:
        """Rounds and attempts in a silo's ledger, which is verified on the way."""
        entries = ledger_of(self.organisations[name].state, name).entries()
        return [(one.round, one.attempt) for one in entries if one.kind == "charge"]

    def close(self) -> None:
        self._ending.close()

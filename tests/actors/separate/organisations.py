"""A coordinator and organisations in one process: real sockets, TLS and CKKS; silos as threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from blindsum.actors.approving import approve_job
from blindsum.actors.separate.agent import Agent
from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.cluster import SeparateCluster
from blindsum.actors.separate.gate import Gate
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.link import LinkSettings, Renewing
from blindsum.actors.separate.messages import Proposal
from blindsum.actors.separate.registry import Registry
from blindsum.actors.separate.relay import relayed
from blindsum.actors.separate.server import Server, server_context
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.vault import open_identity
from blindsum.he.identity import Identity, fingerprint
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    keep_certificate,
    make_authority,
    make_node,
    make_request,
    renewal_due,
    sign_request,
)
from blindsum.platform.job.owner import read_owner
from blindsum.platform.job.paths import places_under
from blindsum.platform.job.schema import Job

VERSION = "0.1.0"


def until(true: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + timeout_s
    while not (found := true()):
        if time.monotonic() > end:
            raise TimeoutError("what the test waits for did not happen")
        time.sleep(0.01)
    return found


class Coordinator:
    """A coordinator's gate, by default on a free port of 127.0.0.1.

    Args:
        names: other names and addresses in its certificate.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
        need_certificate: bool = True,
    ) -> None:
        self.folder, self.host = folder, host
        if not (folder / CA_CERTIFICATE).exists():
            make_authority(folder, 30)
            make_node(folder, "gate", [host, *names], 30)
        self.identity = Identity(folder / "identity.pem")
        self.registry = Registry(folder / "registry.sqlite")
        tls = folder / "gate"
        self.gate = Gate(
            self.registry, self.identity, self._sign, VERSION, self._take, need_certificate
        )
        self.tls = server_context(tls / NODE_CERTIFICATE, tls / NODE_KEY, tls / CA_CERTIFICATE)
        self.server = Server(self.gate.handle, [(host, port)], self.tls, self.gate.begin)

    def _sign(self, request: str, silo: str) -> tuple[str, str]:
        return sign_request(self.folder, request, f"{silo}.silo", 30)

    def _take(self, proposal: Proposal, code: Mapping[str, bytes]) -> tuple[str, Mapping[str, str]]:
        return self.registry.propose(proposal, code), {}

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    @property
    def port(self) -> int:
        return self.server.ports[0]

    def propose(self, job: Job, code: Mapping[str, bytes] | None = None) -> str:
        code = code or {}
        proposal = Proposal(name=job.name, job=job.model_dump_json(), code=tuple(code))
        digest = self.registry.propose(proposal, code)
        self.gate.boards_changed()
        return digest

    def cluster(self, proposal: str, job: Job, silent_s: float = 30.0) -> SeparateCluster:
        boxes = {name: self.gate.mailbox(name) for name in job.roster}
        return SeparateCluster(ThreadCluster(), boxes, proposal, silent_s)

    def close(self) -> None:
        self.server.close()


class Organisation:
    """A silo with an owner's file and an agent, whose silo is a thread of this process.

    Args:
        file: sections of the owner's file; `link` changes the one of the coordinator.
    """

    def __init__(
        self, folder: Path, name: str, table: Path, coordinator: Coordinator, **file: Any
    ) -> None:
        self.folder, self.name = folder, name
        folder.mkdir(parents=True, mode=0o700)
        self.state = folder / "state"
        self.file = folder / "silo.yaml"
        public = coordinator.identity.public
        self.content: dict[str, Any] = {
            "names": [name],
            "state": str(self.state),
            "datasets": {"tumours": {"path": str(table)}},
            "coordinator": {
                "url": coordinator.url,
                "identity": fingerprint(public),
                **file.pop("link", {}),
            },
            **file,
        }
        self.file.write_text(yaml.safe_dump(self.content))
        self.file.chmod(0o600)
        self.identity = open_identity(self.state)
        secret = coordinator.registry.invite(name, 1)
        coordinator.registry.enrol(name, self.identity.public, secret)
        self.tls = folder / "tls"
        self.tls.mkdir()
        request = make_request(self.tls, f"{name}.silo")
        keep_certificate(self.tls, *coordinator._sign(request, name))
        self.public = public
        self.said: list[str] = []
        self._stop: Callable[[], None] = lambda: None

    def settings(self, url: str | None = None) -> LinkSettings:
        section = read_owner(self.file).file.coordinator
        assert section
        authority = Path(section.authority) if section.authority else self.tls / CA_CERTIFICATE
        shown = (self.tls / NODE_CERTIFICATE, self.tls / NODE_KEY)
        none = (None, None)  # it would not pass the proxy
        return LinkSettings(
            url=url or section.url,
            coordinator=self.public,
            fingerprint=section.identity,
            tls=lambda: client_context(authority, *(shown if section.tls == "mutual" else none)),
            proxy=section.proxy,
            renewing=Renewing(self._request, lambda *new: keep_certificate(self.tls, *new)),
        )

    def _request(self) -> str | None:
        return make_request(self.tls, f"{self.name}.silo") if renewal_due(self.tls) else None

    def start(
        self,
        silo: type[Silo] = Silo,
        url: str | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the agent in a thread, which calls `before` first."""
        shelled = relayed(silo, str(self.file), own_process=False)
        self.cluster = ThreadCluster(shelled=shelled)
        ready = threading.Event()

        async def serve() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(stop.set)
            self.agent = Agent(
                read_owner(self.file),
                self.name,
                self.settings(url),
                self.identity,
                self.cluster,
                VERSION,
                self.said.append,
            )
            ready.set()
            await self.agent.serve(stop)

        def run() -> None:
            before()
            asyncio.run(serve())

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        self._stop()
        self._stop = lambda: None
        self._thread.join(10)

    def approve(self, digest: str) -> None:
        inbox = Inbox(self.state)
        until(lambda: any(one.digest == digest for one in inbox.all()))
        job = inbox.job(digest)
        folder = inbox.folder(digest) / "code"
        places = places_under(read_owner(self.file), job.silo(self.name), "")
        given = approve_job(job, self.name, places, folder, 1, time.time() + 3600)
        inbox.decide(digest, "approved", weights=given.weights)

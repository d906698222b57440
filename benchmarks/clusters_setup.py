"""A coordinator's gate in this process and three agents in processes of their own, for
`benchmarks/clusters.py`; and a relay between them that delays bytes, or holds them back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from blindsum.actors.approving import approve_job
from blindsum.actors.separate.gate import Gate
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.messages import Proposal
from blindsum.actors.separate.server import Server, server_context
from blindsum.infra.certificates import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY, sign_request
from blindsum.pipelines.consortium.invitation import Token
from blindsum.pipelines.consortium.settings import make_home
from blindsum.pipelines.consortium.silo import join_coordinator, open_silo
from blindsum.platform.job.owner import read_owner
from blindsum.platform.job.paths import places_under
from blindsum.platform.job.schema import Job

SILOS = ("alder", "birch", "cedar")
VERSION = "0.1.0"
_SERVE = [sys.executable, "-m", "blindsum", "silo", "serve"]


def until(true: Callable[[], Any], within_s: float = 120.0) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + within_s
    while not (found := true()):
        if time.monotonic() > end:
            raise SystemExit("what the benchmark waits for did not happen")
        time.sleep(0.005)
    return found


class Relay:
    """A TCP relay on a free port that delays bytes, or holds them back."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self._to, self._delay_s = port, delay_s
        self.flows = threading.Event()
        self.flows.set()
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                at, content = await waiting.get()
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                while not self.flows.is_set():
                    await asyncio.sleep(0.01)
                if not content:
                    writer.close()
                    return
                writer.write(content)
                await writer.drain()

        async def take() -> None:
            while content := await reader.read(2**18):
                await waiting.put((time.monotonic() + self._delay_s, content))
            await waiting.put((time.monotonic() + self._delay_s, b""))

        try:
            await asyncio.gather(send(), take())
        except OSError:
            writer.close()


class Consortium:
    """A gate in this process, and three agents with a Ray each in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = make_home(folder / "coordinator", "https://127.0.0.1:1", ["127.0.0.1:0"])
        self.registry, tls = self.home.registry, self.home.tls
        self.gate = Gate(
            self.registry,
            self.home.identity,
            lambda request, silo: sign_request(self.home.folder, request, f"{silo}.silo", 30),
            VERSION,
            lambda proposal, code: (self.registry.propose(proposal, code), {}),
        )
        context = server_context(tls / NODE_CERTIFICATE, tls / NODE_KEY, tls / CA_CERTIFICATE)
        self.server = Server(self.gate.handle, [("127.0.0.1", 0)], context, self.gate.begin)
        self.port = self.server.ports[0]
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        for name in SILOS:
            file = folder / name / "silo.yaml"
            file.parent.mkdir(mode=0o700)
            content = {
                "names": [name],
                "state": str(folder / name / "state"),
                "datasets": {"made_up": {"path": str(folder / f"{name}.parquet")}},
            }
            file.write_text(yaml.safe_dump(content))
            file.chmod(0o600)
            secret = self.registry.invite(name, 1)
            token = Token("join", self._url(), self.home.identity.public, secret, name)
            join_coordinator(open_silo(file), token, None)

    def _url(self, port: int | None = None) -> str:
        return f"https://127.0.0.1:{port or self.port}"

    def start(self, name: str, port: int | None = None) -> None:
        """Start an agent that connects to that port, and wait until it is connected."""
        self.stop(name)
        file = self.folder / name / "silo.yaml"
        content = yaml.safe_load(file.read_text())
        content["coordinator"]["url"] = self._url(port)
        file.write_text(yaml.safe_dump(content))
        home = str(self.folder / name)
        with open(self.folder / name / "log", "ab") as log:
            self.agents[name] = subprocess.Popen(
                # On three machines each silo would have them to itself; here they share two cores.
                [*_SERVE, "--cores", "1", "--no-page", "--file", file],
                env={**os.environ, "HOME": home, "BLINDSUM_HOME": home},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End an agent."""
        agent = self.agents.pop(name, None)
        if agent:
            agent.send_signal(number)
            agent.wait(60)

    def connect(self, relay: Callable[[], int] | None = None) -> None:
        """Start all agents, and wait until they are connected."""
        for name in SILOS:
            self.gate.mailbox(name).heard = None
            self.start(name, relay() if relay else None)
        until(lambda: all(self.gate.connected(name) for name in SILOS))

    def approved(self, job: Job) -> str:
        """Propose a job, approve it at every silo, and return its digest."""
        digest = self.registry.propose(Proposal(name=job.name, job=job.model_dump_json()), {})
        self.gate.boards_changed()
        for name in SILOS:
            inbox = Inbox(self.folder / name / "state")
            until(lambda inbox=inbox: any(one.digest == digest for one in inbox.all()))
            code = inbox.folder(digest) / "code"
            owner = read_owner(self.folder / name / "silo.yaml")
            places = places_under(owner, job.silo(name), "")
            given = approve_job(inbox.job(digest), name, places, code, 9, time.time() + 3600)
            inbox.decide(digest, "approved", weights=given.weights)
        until(
            lambda: (
                sum(d.verdict == "approved" for d in self.registry.decisions(digest).values()) == 3
            )
        )
        return digest

    def close(self) -> None:
        """End the agents and the gate."""
        for name in list(self.agents):
            self.stop(name)
        self.server.close()

"""A silo as the gate knows it, and which agent may begin a session for it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

from aiohttp import web

from blindsum.actors.separate.bodies import Refusal
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.actors.separate.messages import PROTOCOL, Hello
from blindsum.actors.separate.server import Connection
from blindsum.actors.separate.session import Session
from blindsum.platform.errors import ClusterError, KeyRefused

STALE_S = 12.0
"""An agent that was silent for so long may be replaced by another one with its name."""
_REMEMBERED = 1024  # hellos of each silo
_MOST_CONNECTIONS = 16  # of a silo; its agent has 8


@dataclass(eq=False)
class Peer:
    """One silo, as the gate knows it."""

    mailbox: Mailbox
    woken: asyncio.Event
    session: Session | None = None
    pending: list[Session] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    arriving: int = 0
    noted: float = 0.0
    answered: dict[bytes, None] = field(default_factory=dict)

    def require_new(self, hello: Hello) -> None:
        """Refuse a hello that was answered before: whoever kept it, such as an inspecting proxy,
        could put an end to a session that the agent is just beginning. Raises KeyRefused."""
        key = hashlib.sha256(hello.mlkem + hello.x25519).digest()
        if key in self.answered:
            raise KeyRefused("received a hello a second time")
        self.answered[key] = None
        if len(self.answered) > _REMEMBERED:
            self.answered.pop(next(iter(self.answered)))

    def require_single(self, hello: Hello) -> None:
        """Refuse a second agent with the same name while the first one is connected."""
        now = self.session
        if now and now.peer_instance != hello.instance and self.connected:
            raise Refusal(
                409,
                ClusterError(
                    f"another agent of silo '{hello.silo}' is connected",
                    f"Stop it first. If it is gone, this one may connect within {STALE_S:g} s.",
                ),
            )

    @property
    def connected(self) -> bool:
        """Whether the session's agent is there. It may be silent for a while between two polls, but
        its system ends its connections as soon as it has ended."""
        alive = any(one.transport for one in self.connections)
        return alive and self.mailbox.silent_s() < STALE_S

    def uses(self, connection: Connection) -> None:
        """Note that the session's agent used a connection; of too many, the one that it used least
        recently is ended."""
        connection.known = True
        others = [one for one in self.connections if one.transport and one is not connection]
        for one in others[: 1 - _MOST_CONNECTIONS]:
            one.force_close()
        self.connections = [*others[1 - _MOST_CONNECTIONS :], connection]


def require_version(hello: Hello, version: str) -> None:
    """Refuse an agent whose protocol or minor version differs from this coordinator's."""
    ours = version.split(".")[:2]
    if hello.protocol != PROTOCOL or hello.version.split(".")[:2] != ours:
        raise Refusal(
            403,
            ClusterError(
                f"this coordinator runs blindsum {version}, and the agent "
                f"{hello.version}: their minor versions must be equal",
                "Install the same version on both sides.",
            ),
        )


def require_certificate(request: web.BaseRequest, silo: str, needed: bool) -> None:
    """Refuse an agent whose TLS certificate is missing, if it is needed, or another silo's."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport else None
    if not certificate:
        if needed:
            raise Refusal(
                403,
                ClusterError(
                    "this coordinator requires a client certificate, and none arrived",
                    "If a proxy ends TLS on the way, the coordinator must allow it (tls: "
                    "inspected), and this silo too.",
                ),
            )
        return
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if f"{silo}.silo" not in names:
        raise Refusal(
            403,
            ClusterError(
                f"the client certificate is for {', '.join(names) or 'nobody'}, and not for "
                f"{silo}.silo",
                "Enrol again: blindsum silo join INVITATION.",
            ),
        )

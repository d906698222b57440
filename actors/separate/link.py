"""An agent's link to the coordinator: sealed requests, over connections that come and go.

A lost connection is never an error here: requests are made again until they succeed or the
coordinator refuses them. They are POST requests, because aiohttp and proxies repeat the other ones
by themselves, and a sealed body is accepted only once. A cut shows itself soon
(`blindsum.actors.separate.client`). Where something on the way keeps a dead connection open, its
silence shows it: the coordinator answers a poll within PARK_S, and anything else sooner.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from blindsum.actors.separate.client import (
    Closed,
    LinkLost,
    SessionEnded,
    Silent,
    open_http,
    request,
)
from blindsum.actors.separate.messages import (
    PARK_S,
    SESSION,
    Renewal,
    packed,
    unpacked,
)
from blindsum.actors.separate.session import Asking, Session
from blindsum.he.identity import Identity
from blindsum.platform.errors import KeyRefused

T = TypeVar("T")
SILENT_S = 10.0
"""How long an answer may be overdue before the link counts as dead: longer than a parked poll's."""
MOST_SILENT_S = 600.0
_REMEMBERED_S = 3600.0


@dataclass(frozen=True)
class Renewing:
    """How the silo's certificate is renewed, in its folder.

    Attributes:
        request: returns a certificate request (PEM) when it is time for a new certificate, or None.
        keep: takes up the new certificate and the authorities' (PEM).
    """

    request: Callable[[], str | None]
    keep: Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """How an agent reaches its coordinator.

    Attributes:
        url: https://HOST:PORT
        coordinator: the coordinator's public identity.
        tls: makes a TLS context; called anew for each session, so that a renewed certificate is
            used without a restart.
        proxy: URL of a proxy, or None: then HTTPS_PROXY and NO_PROXY decide.
        renewing: None if the certificate is not renewed.
    """

    url: str
    coordinator: bytes
    fingerprint: str
    tls: Callable[[], ssl.SSLContext]
    proxy: str | None = None
    renewing: Renewing | None = None


class Patience:
    """How long an answer may be overdue. It doubles with each silence, because a link that is only
    slow must not be cut again and again. After an hour without one it is SILENT_S again."""

    def __init__(self) -> None:
        self._seconds, self._until = SILENT_S, 0.0

    @property
    def seconds(self) -> float:
        """How long to wait now."""
        return self._seconds if time.monotonic() < self._until else SILENT_S

    def double(self) -> None:
        """Note a silence."""
        self._seconds = min(2 * self.seconds, MOST_SILENT_S)
        self._until = time.monotonic() + _REMEMBERED_S


class Link:
    """An agent's requests.

    Args:
        instance: random, new for each start of the agent.

    Attributes:
        coordinator_instance: the coordinator's, likewise.
        answered: how many requests were answered.
    """

    def __init__(
        self, settings: LinkSettings, silo: str, identity: Identity, version: str, instance: str
    ) -> None:
        self._settings, self._silo, self._identity = settings, silo, identity
        self._version, self._instance = version, instance
        self._http: aiohttp.ClientSession | None = None
        self._closed = asyncio.Event()  # set when `_http` is closed or replaced
        self._session: Session | None = None
        self.coordinator_instance: str | None = None
        self.answered = 0
        self._patience = Patience()

    @property
    def established(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    async def close(self) -> None:
        """End the session and all connections; requests that are under way raise SessionEnded."""
        self._session = None
        await self._replace(None)

    async def begin(self) -> None:
        """Begin a session, with fresh connections and the newest certificate.

        Raises:
            LinkLost: the coordinator cannot be reached.
            BlindsumError: it refuses this agent, or is not the pinned one.
        """
        await self.close()
        await self._replace(self._open())
        asking = Asking(
            self._silo,
            self._identity,
            self._settings.fingerprint,
            self._version,
            self._instance,
        )
        try:
            body = await self._request("POST", "/v1/sessions", asking.hello, {})
        except SessionEnded as refused:
            raise refused.error or KeyRefused("the coordinator refuses a session") from None
        except Closed as lost:  # as a server does in TLS 1.3 that rejects a client's certificate
            hint = "perhaps the coordinator does not accept this silo's certificate"
            raise LinkLost(f"{lost}; {hint}") from None
        session, welcome = asking.welcomed(body, self._settings.coordinator)
        self._session, self.coordinator_instance = session, welcome.instance

    async def renew(self) -> bool:
        """Renew the certificate if it is time; returns whether it was. The session ends, so that
        the next one begins with the new certificate.

        Raises:
            BlindsumError: the coordinator refuses, or the certificate cannot be kept.
            LinkLost, SessionEnded: as `ask`.
        """
        renewing = self._settings.renewing
        request = renewing.request() if renewing else None
        if renewing is None or request is None:
            return False
        answer, _ = await self.ask("/v1/certificate", Renewal(content=request), [], Renewal)
        renewing.keep(answer.content, answer.authority)
        await self.close()
        return True

    async def ask(
        self, path: str, message: Any, attachments: Any, kind: type[T]
    ) -> tuple[T, list[memoryview]]:
        """Send a message and return the answer.

        Raises:
            LinkLost, SessionEnded: make the request again, after `begin` in the second case.
            BlindsumError: the coordinator refuses.
        """
        body = await self.exchange("POST", path, packed(message, attachments))
        return unpacked(body, kind)

    async def exchange(self, method: str, path: str, content: bytes) -> bytes:
        """Send a sealed body and return the opened answer. Raises as `ask`."""
        session = self._session
        if session is None:
            raise SessionEnded
        sealed = session.close(content, method, path)
        try:
            body = await self._request(method, path, sealed, {SESSION: session.name})
            answer = session.open(body, method, path)
        except (SessionEnded, KeyRefused) as ended:  # the answer may have been altered
            if session is self._session:
                await self.close()
            raise SessionEnded(getattr(ended, "error", None)) from None
        except LinkLost:
            if session is not self._session:
                raise SessionEnded from None
            raise
        self.answered += 1
        return answer

    async def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Make a request. If no answer comes, the whole link counts as dead, with the connections
        that wait for their next use: all are closed, and the session goes on over new ones."""
        http = self._http
        if http is None:
            raise SessionEnded
        url, wait_s = self._settings.url + path, PARK_S + self._patience.seconds
        try:
            return await self._unless_closed(request(http, method, url, body, headers, wait_s))
        except Silent:
            if http is self._http:
                self._patience.double()
                await self._replace(self._open())
            raise

    async def _unless_closed(self, asking: Coroutine[Any, Any, bytes]) -> bytes:
        """Return what a request returns. If another task closes the connections it ends with
        `Closed`: aiohttp lets whoever reads an answer wait for ever then, without a timeout."""
        made, closed = asyncio.create_task(asking), asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait({made, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                raise Closed("the connection was closed without an answer")
            return made.result()
        finally:
            for one in (made, closed):
                one.cancel()
            await asyncio.gather(made, closed, return_exceptions=True)

    async def _replace(self, http: aiohttp.ClientSession | None) -> None:
        """End all requests and connections, and use those from now on."""
        self._closed.set()
        self._closed = asyncio.Event()
        before, self._http = self._http, http
        if before:
            await before.close()

    def _open(self) -> aiohttp.ClientSession:
        return open_http(self._settings.tls(), self._settings.url, self._settings.proxy)

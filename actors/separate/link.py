"""An agent's link to the coordinator: HTTPS requests, outwards only.

A lost connection is never an error here: requests are made again until they succeed or the
coordinator refuses them. They are POST requests, because aiohttp and proxies repeat the other ones
by themselves, and a sealed body is accepted only once. TCP itself notices a cut within about
SILENT_CUT_S. Where something on the way keeps a dead connection open, its silence shows it: the
coordinator answers a poll within PARK_S, and anything else sooner.
"""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509

from blindsum.actors.separate.failures import printable
from blindsum.actors.separate.messages import (
    PARK_S,
    SESSION,
    TABLE,
    Renewal,
    packed,
    unpacked,
)
from blindsum.actors.separate.session import Asking, Session
from blindsum.he.identity import Identity
from blindsum.platform.errors import ClusterError, KeyRefused

T = TypeVar("T")
SILENT_CUT_S = 15
SILENT_S = 10.0
"""How long an answer may be overdue before the link counts as dead: longer than a parked poll's."""
CONNECT_S = 30.0
"""How long a connection may take to begin, through a proxy too."""
MOST_SILENT_S = 600.0
_REMEMBERED_S = 3600.0
_MOST_PROBLEM = 4096
_MOST_ANSWER = max(one.most_bytes for one in TABLE if one.sender == "coordinator") + 2**10


class LinkLost(Exception):
    """The coordinator cannot be reached now; the text says why, in one printable line."""

    def __init__(self, why: str) -> None:
        super().__init__(printable(why))


class Silent(LinkLost):
    """No answer came in time, over a connection that has not ended."""


class Closed(LinkLost):
    """The connection was closed before an answer came."""


class SessionEnded(Exception):
    """There is no session, or the coordinator does not know it; `error` is what it said."""

    def __init__(self, error: KeyRefused | None = None) -> None:
        super().__init__()
        self.error = error


class Replaced(ClusterError):
    """Another agent of this silo is connected."""


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
        http, self._http, self._session = self._http, None, None
        if http:
            await http.close()

    async def begin(self) -> None:
        """Begin a session, with fresh connections and the newest certificate.

        Raises:
            LinkLost: the coordinator cannot be reached.
            BlindsumError: it refuses this agent, or is not the pinned one.
        """
        await self.close()
        self._http = self._open()
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
        except (SessionEnded, KeyRefused):  # the question or the answer may have been altered
            if session is self._session:
                await self.close()
            raise SessionEnded from None
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
            return await request(http, method, url, body, headers, wait_s)
        except Silent:
            if http is self._http:
                self._patience.double()
                self._http = self._open()
                await http.close()
            raise

    def _open(self) -> aiohttp.ClientSession:
        return open_http(self._settings.tls(), self._settings.url, self._settings.proxy)


def open_http(context: ssl.SSLContext, url: str, proxy: str | None = None) -> aiohttp.ClientSession:
    """Return an HTTP client whose connections notice a cut. It does not trust the environment: it
    would send the passwords in ~/.netrc to the coordinator.

    Args:
        url: what it will connect to.
        proxy: URL of a proxy, or None: then HTTPS_PROXY and NO_PROXY decide, as they are now.

    Raises:
        ClusterError: HTTPS_PROXY does not name a proxy.
    """
    connector = aiohttp.TCPConnector(
        ssl=context, limit=8, keepalive_timeout=60, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        proxy=proxy or environment_proxy(url),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def request(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes,
    headers: dict[str, str],
    wait_s: float,
) -> bytes:
    """Make one request.

    Raises:
        LinkLost: there was no answer, or one that is not the coordinator's.
        Silent, Closed: kinds of LinkLost.
        SessionEnded: the coordinator does not know the session.
        Replaced, ClusterError: it refuses the request.
    """
    timeout = aiohttp.ClientTimeout(connect=CONNECT_S, sock_read=wait_s)
    # A proxy may compress an answer for a client that would accept it.
    own = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
    try:
        async with http.request(
            method,
            url,
            data=body,
            headers={**headers, **own},
            timeout=timeout,
            allow_redirects=False,
        ) as answer:
            if answer.status == 200:
                return await _content(answer)
            problem = await answer.content.read(_MOST_PROBLEM)
            raise _refusal(answer.status, problem)
    except aiohttp.SocketTimeoutError:
        raise Silent(f"no answer within {wait_s:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise LinkLost(why(error)) from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
        # A server that ends a connection while something still arrives resets it.
        raise Closed("the connection was closed without an answer") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise LinkLost(why(error)) from None


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    """Return an answer's content. Raises LinkLost if it is longer than any of the coordinator's."""
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > _MOST_ANSWER:
            raise LinkLost("an answer came that is longer than any")
    return bytes(content)


def environment_proxy(url: str) -> str | None:
    """Return the proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host.

    Raises:
        ClusterError: it is not an HTTP proxy.
    """
    parts = urlsplit(url)
    hosts = (parts.hostname or "", f"{parts.hostname}:{parts.port}")
    if any(urllib.request.proxy_bypass(one) for one in hosts):
        return None
    proxy = urllib.request.getproxies().get("https")
    if not proxy:
        return None
    found = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ClusterError(
            "HTTPS_PROXY does not name a proxy that can be used",
            "Write http://USER:PASSWORD@HOST:PORT.",
        )
    return found.geturl()


def why(error: BaseException) -> str:
    """Return why a connection failed, for people: the certificate's fault, or the system's text."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        said = getattr(error.certificate_error, "verify_message", error.certificate_error)
        return (
            f"the certificate of {error.host}:{error.port} is not trusted: {said} (if a proxy of "
            "this organisation inspects TLS, set tls and authority in silo.yaml)"
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refuses ({error.status} {error.message})"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS failed ({error.os_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        found = error.os_error
        return f"{error.host}:{error.port}: {found.strerror or found or type(found).__name__}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"the connection broke ({type(error).__name__})"


def _refusal(status: int, problem: bytes) -> Exception:
    try:
        content = json.loads(problem)
        clean = [printable(str(content[key])[:500]) for key in ("detail", "hint")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return LinkLost(f"something on the way answered with status {status}")
    if status == 401:
        return SessionEnded(KeyRefused(*clean))
    if status == 409:
        return Replaced(*clean)
    return LinkLost(clean[0]) if status in (408, 429, 500) else ClusterError(*clean)


def client_context(
    authority: Path | None, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Return an agent's TLS context.

    Args:
        authority: PEM of the authority that signs the server's certificate; None: the system's.
        certificate, key: the client's; None behind a proxy that ends TLS.

    Raises:
        ClusterError: a file cannot be used, or the client's certificate has expired.
    """
    again = "Enrol again: blindsum silo join INVITATION."
    try:
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
        if certificate and key:
            context.load_cert_chain(certificate, key)
            end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
            if end < datetime.datetime.now(datetime.UTC):
                # asyncio's servers close the connection without a word about it.
                raise ClusterError(f"this silo's certificate expired on {end:%Y-%m-%d}", again)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ClusterError(f"the TLS files of this silo cannot be used ({said})", again) from None
    return context


def _socket(info: Any) -> socket.socket:
    """Return a socket whose system notices, within SILENT_CUT_S, that nothing arrives any more."""
    family, kind, number, _, _ = info
    one = socket.socket(family, kind, number)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_CUT_S // 3)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_CUT_S // 3)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_CUT_S * 1000)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one

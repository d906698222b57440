"""HTTPS requests to the coordinator, outwards only, and why they fail.

TCP itself notices a cut within about SILENT_CUT_S.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import ssl
import urllib.request
from collections.abc import Awaitable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509

from blindsum.actors.separate.failures import printable
from blindsum.actors.separate.messages import TABLE
from blindsum.platform.errors import ClusterError, KeyRefused

SILENT_CUT_S = 15
CONNECT_S = 30.0
"""How long a connection may take to begin, through a proxy too."""
SLOWEST = 2**13
"""Bytes a second of the slowest link over which a body is still sent."""
_MOST_ANSWER = max(one.most_bytes for one in TABLE if one.sender == "coordinator") + 2**10
_MOST_PROBLEM = 4096


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
    asked = http.request(
        method,
        url,
        data=body,
        headers={**headers, **own},
        timeout=timeout,
        allow_redirects=False,
    )
    try:
        async with await _begun(asked, CONNECT_S + len(body) / SLOWEST + wait_s) as answer:
            if answer.status == 200:
                return await _content(answer)
            problem = await answer.content.read(_MOST_PROBLEM)
            raise _refusal(answer.status, problem)
    except aiohttp.SocketTimeoutError:
        raise Silent(f"no answer within {wait_s:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise LinkLost(why(error)) from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError, RuntimeError):
        # A server that ends a connection while something still arrives resets it. aiohttp raises
        # RuntimeError if another task closed the connection, with its session, in the meantime.
        raise Closed("the connection was closed without an answer") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise LinkLost(why(error)) from None


async def _begun(
    asked: Awaitable[aiohttp.ClientResponse], within_s: float
) -> aiohttp.ClientResponse:
    """Return an answer once it begins. aiohttp itself has no limit for a body that the other side
    does not take.

    Raises:
        Silent: it does not begin within that time.
    """
    limit = asyncio.timeout(within_s)
    try:
        async with limit:
            return await asked
    except TimeoutError:
        if limit.expired():
            raise Silent(f"no answer within {within_s:g} s") from None
        raise


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

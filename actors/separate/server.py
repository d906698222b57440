"""Serves requests over HTTPS, in a thread of its own.

A connection must send the head of its first request within FIRST_S, so that one that sends nothing,
or one byte at a time, holds a socket only for so long. Bodies have their own limits (`gate.read`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from blindsum.platform.errors import ClusterError

FIRST_S = 20.0
MOST_CONNECTIONS = 1024
_KEEP_ALIVE_S = 75.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return the TLS context of a coordinator. TLS is 1.3; clients' certificates are verified if
    they send one.

    Raises:
        ClusterError: a file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(
            f"the certificate {certificate} cannot be used ({error.strerror or error})",
            "Make a new one: blindsum coordinator init.",
        ) from None
    return context


class Server:
    """An HTTPS server.

    Args:
        handle: answers a request.
        begin: called in the server's event loop before the first request.
        contexts: the TLS context; None for plain HTTP on this machine's loopback.

    Raises:
        ClusterError: the address cannot be listened on.
    """

    def __init__(
        self,
        handle: Handler,
        addresses: Sequence[tuple[str, int]],
        context: ssl.SSLContext | None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._handle, self._context, self._begin = handle, context, begin
        self._sockets = [_listening(host, port) for host, port in addresses]
        self._ready, self._ended = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def ports(self) -> list[int]:
        """The ports on which it listens."""
        return [int(one.getsockname()[1]) for one in self._sockets]

    def close(self) -> None:
        """End every connection and the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._begin()
        server = _Server(
            self._handle,
            keepalive_timeout=_KEEP_ALIVE_S,
            auto_decompress=False,
            access_log=None,
            lingering_time=0.0,
            handler_cancellation=True,
        )
        listening = [
            await self._loop.create_server(
                server,
                sock=one,
                ssl=self._context,
                ssl_handshake_timeout=FIRST_S if self._context else None,
                backlog=MOST_CONNECTIONS,
            )
            for one in self._sockets
        ]
        self._ready.set()
        await self._stop.wait()
        for one in listening:
            one.close()
        await server.shutdown(1.0)


class _Server(web.Server):
    """aiohttp's low-level server, with limits on the number of connections and on the wait for a
    connection's first request."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()


class _Connection(RequestHandler):
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = self._loop.call_later(FIRST_S, self._require_a_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _require_a_request(self) -> None:
        if not self._request_count:
            self.force_close()


def _listening(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ClusterError if the address cannot be used."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        one = socket.socket(family, kind, number)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError as error:
        raise ClusterError(
            f"{host}:{port} cannot be listened on ({error.strerror})",
            "Choose another listen address or port.",
        ) from None
    return one

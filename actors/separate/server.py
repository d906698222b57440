"""Serves requests over HTTPS, in a thread of its own.

A connection must send the head of its first request within FIRST_S, so that one that sends nothing,
or one byte at a time, holds a socket only for so long. Bodies have limits of their own
(`blindsum.actors.separate.bodies`).

Strangers can open connections faster than that. If there are too many, the oldest one of a stranger
is ended for each new one: an agent gets in as long as it is faster than MOST_CONNECTIONS others,
and the connections of agents stay.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from blindsum.platform.errors import ClusterError
from blindsum.platform.events import Log

FIRST_S = 20.0
MOST_CONNECTIONS = 1024
_KEEP_ALIVE_S = 75.0
_GOODBYE_S = 2.0
_AGAIN_S = 0.1

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
        context: the TLS context; None for plain HTTP on this machine's loopback.

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
        self._ready = threading.Event()
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
        # It also ends the tasks of parked requests, of which asyncio would complain otherwise.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._begin()
        server = _Server(
            self._handle,
            keepalive_timeout=_KEEP_ALIVE_S,
            auto_decompress=False,
            access_log=None,
            logger=_unheard(),
            lingering_time=0.0,
            handler_cancellation=True,
        )
        self._door = door = _Door(server, self._context)
        accepting = [asyncio.create_task(door.accept(one)) for one in self._sockets]
        self._ready.set()
        await self._stop.wait()
        for task in accepting:
            task.cancel()
        for one in self._sockets:
            one.close()
        await server.shutdown(1.0)
        await door.close()


class _Door:
    """Accepts connections, and has at most MOST_CONNECTIONS of them."""

    def __init__(self, server: _Server, context: ssl.SSLContext | None) -> None:
        self._server, self._context = server, context
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MOST_CONNECTIONS, files // 2)
        self._open: dict[Connection, socket.socket] = {}  # the oldest is first
        self._beginning: set[asyncio.Task[None]] = set()
        self._log = Log(who="gate")

    async def accept(self, listening: socket.socket) -> None:
        """Accept connections on a socket, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                one, _ = await loop.sock_accept(listening)
            except OSError:  # it was reset at once, or this process has no file left
                await asyncio.sleep(_AGAIN_S)
                continue
            await asyncio.sleep(0)  # however many are waiting, requests go on
            self._make_room()
            connection = self._server()
            self._open[connection] = one
            connection.ended = partial(self._open.pop, connection, None)
            task = asyncio.create_task(self._begin(connection, one))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def close(self) -> None:
        """End every connection that has not begun."""
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)

    async def _begin(self, connection: Connection, one: socket.socket) -> None:
        secure = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                one,
                ssl=self._context,
                ssl_handshake_timeout=FIRST_S if secure else None,
                ssl_shutdown_timeout=_GOODBYE_S if secure else None,
            )
        except OSError as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self._log.say("refused", error=f"a client's certificate: {error.verify_message}")
        finally:
            if connection.transport is None:
                self._open.pop(connection, None)
                one.close()

    def _make_room(self) -> None:
        """End the oldest connection that no agent has shown to be its own."""
        if len(self._open) < self._most:
            return
        oldest = next((one for one in self._open if not one.known), next(iter(self._open)))
        with suppress(OSError):
            self._open.pop(oldest).shutdown(socket.SHUT_RDWR)


class _Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(RequestHandler):
    """A connection.

    Attributes:
        known: an agent with a session has used it; set by the gate.
        ended: called once it is lost.
    """

    known = False
    ended: Callable[[], object]
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request, at most FIRST_S."""
        super().connection_made(transport)
        self._deadline = self._loop.call_later(FIRST_S, self._require_a_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End that wait, and call `ended`."""
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)
        self.ended()

    def _require_a_request(self) -> None:
        if not self._request_count:
            self.force_close()


def _unheard() -> logging.Logger:
    """Return a logger that says nothing: aiohttp's lines quote what strangers sent."""
    logger = logging.getLogger("blindsum.gate.unheard")
    logger.disabled = True
    return logger


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
        one.listen(MOST_CONNECTIONS)
        one.setblocking(False)
    except OSError as error:
        raise ClusterError(
            f"{host}:{port} cannot be listened on ({error.strerror})",
            "Choose another listen address or port.",
        ) from None
    return one

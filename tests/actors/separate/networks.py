"""Networks between a silo and its coordinator: proxies, links that are cut, slow or silent."""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    make_authority,
    make_node,
)

CHUNK = 2**16
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Listener:
    """A TCP server in a thread of its own, on a free port of 127.0.0.1.

    Attributes:
        connections: how many it has accepted.
        most: how many it has had at the same time.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connections = self.most = self.port = 0
        self._tls = tls
        self._open: set[Writer] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Serve one connection; it is closed afterwards."""
        raise NotImplementedError

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda *_: None)  # a cut connection is no event here
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for writer in self._open:
            writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        self._open.add(writer)
        self.most = max(self.most, len(self._open))
        try:
            with suppress(OSError, EOFError):  # a cut connection is what this network is for
                await self.serve(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two directions until the first one ends."""
    tasks = {asyncio.ensure_future(one), asyncio.ensure_future(other)}
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in done:
        task.result()


async def pump(reader: Reader, writer: Writer) -> None:
    """Pass bytes on until they end."""
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()


class Relay(Listener):
    """A link to a port of 127.0.0.1.

    Args:
        cut_after: how many bytes the link carries, on all connections and both ways together,
            before they are all reset.
        bytes_a_second: the link's rate in each direction.
        delay_s: how long it holds every piece of what it passes on.

    Attributes:
        hold_after: how many bytes it carries before it goes silent.
        holds_all: whether every connection does so then, or the one that carries the next bytes.
        carried: how many bytes it has passed on.
        cuts: how often it was cut.
        down: whether new connections are reset.
    """

    def __init__(
        self,
        to: int,
        cut_after: int | None = None,
        bytes_a_second: float | None = None,
        delay_s: float = 0,
    ) -> None:
        self._to, self._cut_after, self._rate = to, cut_after, bytes_a_second
        self._delay_s = delay_s
        self.hold_after: int | None = None
        self.holds_all = True
        self.carried = self.cuts = 0
        self._left = cut_after or 0
        self.down = False
        self._silent: set[Writer] = set()
        self._turns = (asyncio.Lock(), asyncio.Lock())
        super().__init__()

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        self.cuts += 1
        for writer in self._open:
            writer.transport.abort()

    def hold(self) -> int:
        """Pass on nothing more of the connections that are open now, and close none of them;
        returns how many there are."""
        held = set(self._open)
        self._silent |= held
        return len(held)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        if self.down:
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            await both(
                self._carry(reader, there, writer), self._carry(there_reader, writer, writer)
            )
        finally:
            there.transport.abort()

    async def _carry(self, reader: Reader, to: Writer, link: Writer) -> None:
        while chunk := await reader.read(CHUNK):
            if link in self._silent:
                continue
            await asyncio.sleep(self._delay_s)
            if self._rate:
                async with self._turns[to is link]:
                    await asyncio.sleep(len(chunk) / self._rate)
            self.carried += len(chunk)
            if self.hold_after and self.carried > self.hold_after:
                self.hold_after = None
                self._silent |= set(self._open) if self.holds_all else {link}
                continue
            if self._cut_after and self._is_cut(len(chunk)):
                return
            to.write(chunk)
            await to.drain()
        if link in self._silent:
            await asyncio.sleep(3600)

    def _is_cut(self, size: int) -> bool:
        """Count what was carried; reset every connection when it is too much."""
        self._left -= size
        if self._left > 0:
            return False
        self._left = self._cut_after or 0
        self._reset()
        return True


class Proxy(Listener):
    """A CONNECT proxy (RFC 9110, 9.3.6).

    Args:
        credentials: USER:PASSWORD that it requires.
        deaf: it accepts connections, and never answers.

    Attributes:
        asked: the targets of the requests that it allowed.
    """

    def __init__(
        self, credentials: str | None = None, tls: ssl.SSLContext | None = None, deaf: bool = False
    ) -> None:
        self._credentials, self._deaf = credentials, deaf
        self.asked: list[str] = []
        self.refused = 0
        super().__init__(tls)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if self._deaf:
            await asyncio.sleep(3600)
        method, target, _ = head.split(" ", 2)
        if method != "CONNECT" or not self._admits(head):
            self.refused += 1
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="a"\r\nContent-Length: 0\r\n\r\n'
            )
            return await writer.drain()
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        return await self.tunnel(reader, writer, host.strip("[]"), int(port))

    def _admits(self, head: str) -> bool:
        if self._credentials is None:
            return True
        lines = (line.partition(":") for line in head.split("\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in lines}
        given = base64.b64encode(self._credentials.encode()).decode()
        return headers.get("proxy-authorization") == f"Basic {given}"

    async def tunnel(self, reader: Reader, writer: Writer, host: str, port: int) -> None:
        """Serve the connection after CONNECT."""
        there_reader, there = await asyncio.open_connection(host, port)
        try:
            await both(pump(reader, there), pump(there_reader, writer))
        finally:
            there.transport.abort()


@dataclass(frozen=True)
class Passed:
    """An HTTP message that passed an inspecting proxy."""

    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def whole(self) -> bytes:
        return self.head + self.body


class InspectingProxy(Proxy):
    """A CONNECT proxy that ends TLS with a certificate of its own authority for 127.0.0.1, reads
    every message, and speaks TLS to the coordinator.

    Args:
        folder: for its authority; `authority` is what clients must trust.
        trusted: the coordinator's authority.
        alter: returns what it passes on in place of a body.

    Attributes:
        requests, answers: every message that passed, as it came.
        altered: how many bodies were.
    """

    def __init__(
        self, folder: Path, trusted: Path, alter: Callable[[bytes], bytes] = lambda body: body
    ) -> None:
        make_authority(folder, 30)
        made = make_node(folder, "proxy", ["127.0.0.1"], 30)
        self.authority = folder / CA_CERTIFICATE
        self._shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._shown.load_cert_chain(made / NODE_CERTIFICATE, made / NODE_KEY)
        self._outward = ssl.create_default_context(cafile=str(trusted))
        self.alter, self.altered = alter, 0
        self.requests: list[Passed] = []
        self.answers: list[Passed] = []
        super().__init__()

    async def tunnel(self, reader: Reader, writer: Writer, host: str, port: int) -> None:
        await writer.start_tls(self._shown)
        there_reader, there = await asyncio.open_connection(host, port, ssl=self._outward)
        try:
            while True:
                await self._pass(reader, there, self.requests)
                await self._pass(there_reader, writer, self.answers)
        finally:
            there.transport.abort()

    async def _pass(self, reader: Reader, writer: Writer, seen: list[Passed]) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        seen.append(Passed(head, body))
        passed = self.alter(body)
        self.altered += passed != body
        writer.write(head + passed)
        await writer.drain()


def flipping(share: float, seed: int) -> Callable[[bytes], bytes]:
    """Return what flips one bit of that share of all bodies."""
    drawn = random.Random(seed)

    def flip(body: bytes) -> bytes:
        if not body or drawn.random() >= share:
            return body
        altered = bytearray(body)
        at = drawn.randrange(8 * len(body))
        altered[at // 8] ^= 1 << at % 8
        return bytes(altered)

    return flip


def flipping_once(size: int) -> Callable[[bytes], bytes]:
    """Return what flips a bit of the first body that is longer than that."""
    left = [1]

    def flip(body: bytes) -> bytes:
        if len(body) <= size or not left:
            return body
        left.pop()
        return body[:-1] + bytes([body[-1] ^ 1])

    return flip

"""Requests that end although nothing on the way ends them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from blindsum.actors.separate import client
from blindsum.actors.separate.client import Closed, Silent, open_http, request
from blindsum.actors.separate.link import Link, LinkSettings
from blindsum.he.identity import Identity

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def served(serve: Serve, ask: Callable[[str], Awaitable[None]]) -> None:
    """Call `ask` with the address of a server that serves connections so."""
    made: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(asyncio.ensure_future(serve(reader, writer)))  # type: ignore[arg-type]

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        for task in made:
            task.cancel()
        server.close()


async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await asyncio.sleep(3600)


async def nothing_is_taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def test_a_request_ends_when_another_closes_the_connection_in_the_middle_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when an answer was altered: the session ends, and with it all that is under way."""
    reading, content = asyncio.Event(), client._content

    async def read(answer: aiohttp.ClientResponse) -> bytes:
        reading.set()
        return await content(answer)

    async def ask(url: str) -> None:
        settings = LinkSettings(
            url=url, coordinator=b"", fingerprint="", tls=ssl.create_default_context
        )
        link = Link(settings, "alder", Identity(tmp_path / "identity.pem"), "0", "0" * 32)
        await link._replace(link._open())
        asking = asyncio.create_task(link._request("POST", "/", b"", {}))
        await reading.wait()
        await link.close()
        with pytest.raises(Closed):
            await asyncio.wait_for(asking, 5)

    monkeypatch.setattr(client, "_content", read)
    asyncio.run(served(half_an_answer, ask))


def test_a_body_that_is_not_taken_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.2)
    monkeypatch.setattr(client, "SLOWEST", 2**30)

    async def ask(url: str) -> None:
        async with open_http(ssl.create_default_context(), url) as http:
            asking = request(http, "POST", url, bytes(2**25), {}, 0.2)
            with pytest.raises(Silent):
                await asyncio.wait_for(asking, 20)

    asyncio.run(served(nothing_is_taken, ask))

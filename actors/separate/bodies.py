"""Bodies of requests at the gate, and refusals. Bodies are bounded before they are read, are never
decompressed, and must arrive in time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from blindsum.actors.codec import encoded
from blindsum.platform.errors import BlindsumError, FederationError

_BODY_S = 30.0  # for a body, and a second more for so many bytes:
_SLOWEST = 2000


class Refusal(Exception):
    """A request is refused, with a status that tells the agent what to do.

    Args:
        status: 400 malformed, 401 no session, 403 not allowed, 404 no such thing, 409 not now,
            429 too much at once.
    """

    def __init__(self, status: int, error: BlindsumError) -> None:
        super().__init__(error.what)
        self.status, self.error = status, error


async def read(request: web.BaseRequest, most: int, slowest: int | None = None) -> bytes:
    """Return a request's body.

    Args:
        slowest: bytes a second at which it must arrive; default 2 kB.

    Raises:
        Refusal: it is longer than `most`, encoded, or does not arrive in time.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(400, FederationError("bodies must not be compressed"))
    length = request.content_length
    if length is None:
        raise Refusal(411, FederationError("a body here needs its length (Content-Length)"))
    if length > most:
        raise Refusal(413, FederationError(f"a body here has at most {most} bytes"))
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_S + length / (slowest or _SLOWEST)):
            while chunk := await request.content.readany():
                content += chunk
                if len(content) > length:
                    raise Refusal(413, FederationError("the body is longer than announced"))
    except TimeoutError:
        raise Refusal(408, FederationError("the body did not arrive in time")) from None
    if len(content) != length:
        raise Refusal(400, FederationError("the body is shorter than announced"))
    return bytes(content)


def problem(status: int, error: BlindsumError) -> web.Response:
    """Return an error as a problem document (RFC 9457): it may pass a proxy, and is not sealed."""
    content = {"title": type(error).__name__, "detail": error.what[:500], "hint": error.hint[:500]}
    return web.Response(
        status=status, body=encoded(content), content_type="application/problem+json"
    )


def number_of(text: str) -> int:
    """Return the number that a part of a path is. Raises Refusal if it is none."""
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise Refusal(404, FederationError("there is no such path here"))
    return int(text)

"""Mutated inputs for readers: what a disk, a hostile sender or a careless hand makes of good ones.

`BLINDSUM_FUZZ` says how many a reader gets (`make fuzz`: thousands); the suite gives each a few.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

from blindsum.platform.errors import BlindsumError, Unexpected

COUNT = int(os.environ.get("BLINDSUM_FUZZ", "120"))
_TOKENS = (
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"'",
    b",",
    b"\n",
    b"\r\n",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"99999999999999999999",
    b"../",
    b"0x10",
    b"1_000",
    b"${HOME}",
    b"[" * 300,
)


def mutants(content: bytes, count: int = COUNT) -> Iterator[bytes]:
    """Variants of an input, the same each time; the first are empty, cut in half and doubled."""
    draw = random.Random(len(content))
    yield from (b"", content[: len(content) // 2], content + content)
    for _ in range(max(0, count - 3)):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 5, 40))):
            _MUTATIONS[draw.randrange(len(_MUTATIONS))](changed, draw)
        yield bytes(changed)


def _flip(content: bytearray, draw: random.Random) -> None:
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _overwrite(content: bytearray, draw: random.Random) -> None:
    at, token = draw.randrange(len(content) + 1), draw.choice(_TOKENS)
    content[at : at + len(token)] = token


def _insert(content: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(content) + 1)
    content[at:at] = draw.choice(_TOKENS)


def _cut(content: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(content) + 1)
    del content[at : at + draw.choice((1, 2, 4, 60, 5000))]


def _repeat(content: bytearray, draw: random.Random) -> None:
    at, size = draw.randrange(len(content) + 1), draw.choice((1, 4, 60))
    content[at:at] = content[at : at + size] * draw.choice((1, 2, 50))


def _move(content: bytearray, draw: random.Random) -> None:
    a, b = draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)
    size = draw.choice((1, 4, 60))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _overwrite,
    _insert,
    _cut,
    _repeat,
    _move,
)


def said_of(read: Callable[[], object]) -> str | None:
    """The message of the error that a reader ends with, None where it reads.

    Anything but an error of ours is a failure, and so is one that calls itself a fault of ours.
    """
    try:
        read()
    except Unexpected:
        raise
    except BlindsumError as error:
        assert error.what and error.__cause__ is None, repr(error)
        return str(error)
    return None

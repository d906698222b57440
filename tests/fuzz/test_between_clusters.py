"""Messages between clusters, changed on their way or made by a liar."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from blindsum.actors.separate.messages import most_bytes, packed, unpacked
from tests.actors.separate.samples import SAMPLES
from tests.fuzz.mutation import COUNT, mutants, said_of

WRONG = (
    "null",
    "true",
    "0",
    "-1",
    "1.0",
    "1e400",
    "NaN",
    "-Infinity",
    str(2**31),
    str(2**40),
    str(2**63),
    "9" * 5000,
    '""',
    '"../../etc/passwd"',
    '"a\\u0000b\\u001b[2J"',
    '"\\ud800"',
    '"' + "a" * 9000 + '"',
    '"%2e%2e"',
    "[]",
    "{}",
    "[[]]",
    '{"number":1}',
    "[" * 500 + "]" * 500,
    "[" + ",".join(["null"] * 70_000) + "]",
)
"""What a field may be in place of its value, as JSON."""


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value of a message."""
    if path:
        yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def changed(content: Any, path: tuple[Any, ...], draw: random.Random) -> str:
    """The message as JSON with one value replaced, missing, added or repeated."""
    copy = json.loads(json.dumps(content))
    here = copy
    for key in path[:-1]:
        here = here[key]
    choice, text = draw.randrange(6), json.dumps(f"mark {draw.random()}")
    if choice == 0:
        del here[path[-1]]
    elif choice == 1 and isinstance(here, dict):
        here[draw.choice(("extra", "Number", "__class__", ""))] = 1
    elif choice == 2 and isinstance(here, list):
        here *= draw.choice((2, 33, 5000))
    else:
        here[path[-1]] = json.loads(text)
        return json.dumps(copy).replace(text, draw.choice(WRONG))
    return json.dumps(copy)


def framed(head: bytes, attachments: list[bytes], draw: random.Random, lies: float) -> bytes:
    """A body whose prefix may lie about the head and the attachments."""
    size, count = len(head), len(attachments)
    lengths = [len(one) for one in attachments]
    if draw.random() < lies:
        size = draw.choice((0, size - 1, size + 1, 2**31, 2**32 - 1))
    if draw.random() < lies:
        count = draw.choice((0, count + 1, 4096, 4097, 2**32 - 1))
    if lengths and draw.random() < lies:
        lengths[draw.randrange(len(lengths))] = draw.choice((0, 1, 2**31, 2**32 - 1))
    numbers = (size % 2**32, count, *lengths)
    prefix = b"bls1" + b"".join(one.to_bytes(4, "little") for one in numbers)
    return prefix + head + b"".join(attachments)


def variants(kind: type) -> Iterator[bytes]:
    """Bodies that are almost a message of that kind."""
    message, attachments = SAMPLES[kind]
    whole = packed(message, attachments)
    yield from mutants(whole, COUNT // 2)
    yield from (whole[:end] for end in range(0, len(whole), max(1, len(whole) // 50)))
    content = json.loads(packed(message)[12:])
    draw = random.Random(kind.__name__)
    paths = list(places(content))
    for number in range(COUNT):
        head = changed(content, paths[number % len(paths)], draw).encode()
        yield framed(head, attachments, draw, lies=0.4 if number % 4 == 0 else 0.0)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_changed_body_is_a_message_or_one_error(kind: Any) -> None:
    answers = set()
    for body in variants(kind):
        found: list[Any] = []
        said = said_of(lambda: found.append(unpacked(body, kind)))  # noqa: B023
        answers.add(said is None)
        if said is None:
            message, views = found[0]
            assert len(body) <= most_bytes(kind)
            assert sum(map(len, views)) <= len(body)
            assert unpacked(packed(message, views), kind) == (message, views)
        else:
            assert "\n" not in said and "mark" not in said and len(said) < 200, said
    assert answers == {True, False}, "some changes do no harm, and others are named"

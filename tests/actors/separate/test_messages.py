"""Every message between clusters: what is packed is read again, within a bound of memory."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.actors.codec import MOST_BYTES
from blindsum.actors.separate.messages import (
    MOST_PART,
    MOST_VALUES,
    TABLE,
    Hello,
    Next,
    Poll,
    Proposal,
    Renewal,
    most_bytes,
    packed,
    unpacked,
)
from blindsum.platform.errors import FederationError
from tests.actors.separate.samples import (
    SAMPLES,
    any_of,
    forget_peak,
    messages_in,
    peak_bytes,
    reachable,
)
from tests.fuzz.mutation import said_of

KINDS = [kind.type for kind in TABLE]
Attachments = list[bytes]
attached = st.lists(st.binary(max_size=30), max_size=5)


def test_every_message_is_fuzzed() -> None:
    """A new message needs a sample; `tests/fuzz` then mutates it."""
    assert set(SAMPLES) == set(KINDS)
    nested = {type(one) for message, _ in SAMPLES.values() for one in messages_in(message)}
    assert nested == reachable()
    for message, _ in SAMPLES.values():
        for one in messages_in(message):
            assert type(one).__dataclass_params__.frozen


def test_every_field_is_set_in_some_sample() -> None:
    """A field that is empty in all samples would never be mutated."""
    for kind in reachable():
        found = [o for m, _ in SAMPLES.values() for o in messages_in(m) if type(o) is kind]
        for name in get_type_hints(kind):
            assert any(getattr(one, name) for one in found), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_read_again(kind: type) -> None:
    @given(any_of(kind), attached)
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    def read_again(message: Any, attachments: Attachments) -> None:
        body = packed(message, attachments)
        found, views = unpacked(body, kind)
        assert found == message and [bytes(one) for one in views] == attachments
        assert packed(found, views) == body

    read_again()


@given(st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_no_message_is_read_as_another_kind(data: st.DataObject) -> None:
    kind, other = data.draw(st.permutations(KINDS))[:2]
    message = data.draw(any_of(kind))
    with pytest.raises(FederationError, match=f"malformed {other.__name__}"):
        unpacked(packed(message), other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_over_its_bound_is_not_looked_at(kind: type) -> None:
    message, attachments = SAMPLES[kind]
    body = packed(message, attachments)
    more = packed(message, [*attachments, bytes(most_bytes(kind) - len(body) - 4 + 1)])
    assert len(more) == most_bytes(kind) + 1
    before = forget_peak()
    with pytest.raises(FederationError, match="longer than any"):
        unpacked(more, kind)
    assert peak_bytes() - before < 2**20


def test_what_travels_together_fits_its_message() -> None:
    assert most_bytes(Poll) > 16 * 2 * 2**20 and most_bytes(Next) > 16 * 2**20
    assert most_bytes(Hello) < 2**15
    assert most_bytes(Proposal) < MOST_PART


ENDS = {
    "parts": b"]}]}",
    "wrong parts": b"]}]}",
    "arrays": b"]}",
    "objects": b"]}",
    "numbers": b"]}",
}
POLL = b'{"after":0,"park":true,"answers":['
ANSWER = POLL + b'{"number":1,"outcome":"answered","value":['
BOMBS = {
    "arrays": (POLL, b"[],"),
    "objects": (POLL, b"{},"),
    "numbers": (POLL, b"0,"),
    "keys": (b'{"after":0', b',"%d":0'),
    "the same key": (b"{", b'"after":0,'),
    "wrong parts": (ANSWER, b'{"a":0,"b":0},'),
    "parts": (ANSWER, b'{"aggregator":0,"digest":"","size":1},'),
    "digits": (b'{"after":', b"9"),
    "decimals": (b'{"after":0.', b"9"),
    "text": (b'{"after":"', b"9"),
    "escapes": (b'{"after":"', b"\\u0001"),
    "depth": (b'{"after":', b"["),
    "depth of objects": (b"", b'{"after":'),
}
"""How heads begin and go on that want to be much more in memory."""


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("long", [False, True])
def test_no_head_takes_more_memory_than_its_message_may(name: str, long: bool) -> None:
    """Count no values, and 16 MB of `{},` take 12 GB and more than a minute."""
    begins, item = BOMBS[name]
    values = sum(map(item.count, (b"[", b"{", b","))) or 1
    often = (MOST_BYTES // len(item) if long else MOST_VALUES // values) - 20
    many = b"".join(item % i for i in range(often // 2)) if b"%d" in item else item * often
    body = framed(begins + many.removesuffix(b",") + ENDS.get(name, b"}"))
    before = forget_peak()
    said = said_of(lambda: unpacked(body, Poll))
    assert said is not None
    assert peak_bytes() - before < most_bytes(Poll) + len(body)


def framed(head: bytes) -> bytes:
    """A head as the body of a message without attachments."""
    return b"bls1" + len(head).to_bytes(4, "little") + bytes(4) + head


@pytest.mark.parametrize("length", [0, 2, 4, 2**31, 2**32 - 1])
def test_attachments_are_as_long_as_announced(length: int) -> None:
    body = bytearray(packed(Renewal(content="PEM"), [b"abc"]))
    body[12:16] = length.to_bytes(4, "little")
    with pytest.raises(FederationError, match="attachments have another length"):
        unpacked(bytes(body), Renewal)


def test_as_many_attachments_as_lengths_fit() -> None:
    message, _ = SAMPLES[Poll]
    assert len(unpacked(packed(message, [b""] * 4096), Poll)[1]) == 4096
    with pytest.raises(FederationError, match="not a Poll"):
        unpacked(packed(message, [b""] * 4097), Poll)

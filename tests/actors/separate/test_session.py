"""A session is between the two pinned identities, and what is sealed in it arrives once, whole."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blindsum.actors.separate import session as module
from blindsum.actors.separate.messages import Hello, Welcome, packed, unpacked
from blindsum.actors.separate.session import (
    _REMEMBERED,
    Asking,
    Seal,
    Session,
    grant,
    read_hello,
    signed,
)
from blindsum.he.identity import SIGNATURE_BYTES, Identity, fingerprint
from blindsum.platform.errors import KeyRefused
from tests.actors.separate.samples import TOKEN, A
from tests.fuzz.mutation import COUNT, mutants, said_of

ABOUT = b"session POST /v1/poll"
VERSION = "0.1.0"


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    names = ("alder", "birch", "coordinator", "other")
    return {name: Identity(folder / f"{name}.pem") for name in names}


class Beginning:
    """A session between alder and the coordinator, before it begins."""

    def __init__(self, identities: dict[str, Identity]) -> None:
        self.silo, self.coordinator = identities["alder"], identities["coordinator"]
        self.pin = fingerprint(self.coordinator.public)
        self.asking = self.ask()

    def ask(self) -> Asking:
        return Asking("alder", self.silo, self.pin, VERSION, TOKEN)

    def grant(self, body: bytes | None = None, by: Identity | None = None) -> tuple[Session, bytes]:
        body = self.asking.hello if body is None else body
        to, hello = by or self.coordinator, read_hello(body)
        return grant(body, hello, self.silo.public, to, VERSION, TOKEN)

    def welcomed(self, body: bytes) -> Session:
        return self.asking.welcomed(body, self.coordinator.public)[0]


@pytest.fixture
def begins(identities: dict[str, Identity]) -> Beginning:
    return Beginning(identities)


def both(begins: Beginning) -> tuple[Session, Session]:
    """The agent's side and the coordinator's side of a session."""
    theirs, welcome = begins.grant()
    return begins.welcomed(welcome), theirs


def test_both_sides_of_a_session_understand_each_other(begins: Beginning) -> None:
    agent, coordinator = both(begins)
    assert agent.name == coordinator.name and len(agent.name) == 32
    up = agent.close(b"up", "POST", "/v1/poll")
    assert coordinator.open(up, "POST", "/v1/poll") == b"up" and b"up" not in up
    assert agent.open(coordinator.close(b"down", "POST", "/v1/poll"), "POST", "/v1/poll") == b"down"


# -- the hello -----------------------------------------------------------------------------


def test_only_the_enrolled_identity_can_say_hello(
    begins: Beginning, identities: dict[str, Identity]
) -> None:
    asking = Asking("alder", identities["birch"], begins.pin, VERSION, TOKEN)
    with pytest.raises(KeyRefused, match="signature of the hello of silo 'alder' does not verify"):
        begins.grant(asking.hello)


def test_a_hello_for_another_coordinator_is_refused(
    begins: Beginning, identities: dict[str, Identity]
) -> None:
    """A coordinator that receives a hello cannot pass it on to another one as its own."""
    with pytest.raises(KeyRefused, match="for another coordinator"):
        begins.grant(by=identities["other"])


def test_no_change_of_a_hello_is_granted(begins: Beginning) -> None:
    whole = begins.asking.hello
    for body in mutants(whole, COUNT * 4):
        said = said_of(lambda: begins.grant(body))  # noqa: B023
        assert (said is None) == (body == whole)


@pytest.mark.parametrize(
    "keys",
    [
        {"mlkem": b""},
        {"mlkem": b"\xff" * 1184},
        {"mlkem": bytes(1183)},
        {"x25519": b""},
        {"x25519": bytes(32)},  # a point of low order: the shared secret would be known
        {"x25519": b"\x01" + bytes(31)},
        {"x25519": bytes(33)},
    ],
)
def test_a_hello_with_keys_that_are_none_is_refused(
    begins: Beginning, keys: dict[str, bytes]
) -> None:
    hello = read_hello(begins.asking.hello)
    body = signed(packed(replace(hello, **keys)), begins.silo)  # type: ignore[arg-type]
    with pytest.raises(KeyRefused, match="keys are not valid"):
        begins.grant(body)


# -- the welcome ---------------------------------------------------------------------------


def test_only_the_pinned_coordinator_can_welcome(
    begins: Beginning, identities: dict[str, Identity]
) -> None:
    """Whoever ends TLS in between could answer, but not in the coordinator's name."""
    other = identities["other"]
    _, welcome = begins.grant()
    forged = signed(welcome[SIGNATURE_BYTES:], other)
    with pytest.raises(KeyRefused, match="the coordinator's welcome does not verify"):
        begins.welcomed(forged)
    with pytest.raises(KeyRefused, match="not the one that was enrolled with"):
        begins.asking.welcomed(forged, other.public)


def test_a_welcome_for_another_hello_is_refused(begins: Beginning) -> None:
    """An old welcome, replayed, gives an agent no session that somebody else could know."""
    _, welcome = begins.grant()
    begins.asking = begins.ask()
    with pytest.raises(KeyRefused, match="another hello"):
        begins.welcomed(welcome)


def test_a_secret_that_was_sealed_to_another_agent_is_refused(begins: Beginning) -> None:
    """The coordinator itself cannot pass off another agent's secret as this one's."""
    _, before = begins.grant()
    begins.asking = begins.ask()
    _, now = begins.grant()
    old, new = (unpacked(one[SIGNATURE_BYTES:], Welcome)[0] for one in (before, now))
    mixed = signed(packed(replace(new, sealed=old.sealed)), begins.coordinator)
    with pytest.raises(KeyRefused, match="was not sealed to this agent"):
        begins.welcomed(mixed)


def test_no_change_of_a_welcome_is_taken(begins: Beginning) -> None:
    _, whole = begins.grant()
    for body in mutants(whole, COUNT * 4):
        said = said_of(lambda: begins.welcomed(body))  # noqa: B023
        assert (said is None) == (body == whole)


@given(st.binary(max_size=2000), st.binary(max_size=80))
@settings(deadline=None, max_examples=60)
def test_no_secret_of_a_lying_coordinator_ends_the_agent(
    identities: dict[str, Identity], sealed: bytes, more: bytes
) -> None:
    begins = Beginning(identities)
    _, whole = begins.grant()
    welcome, _ = unpacked(whole[SIGNATURE_BYTES:], Welcome)
    for secret in (sealed, welcome.sealed[:-1], welcome.sealed + more + b"x"):
        lie = signed(packed(replace(welcome, sealed=secret)), begins.coordinator)
        assert said_of(lambda: begins.welcomed(lie))  # noqa: B023


def test_the_keys_follow_from_every_byte_of_both_messages(
    begins: Beginning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if both signatures could be forged, an altered message leaves two sides that do not
    understand each other."""
    theirs, welcome = begins.grant()
    changed, _ = unpacked(welcome[SIGNATURE_BYTES:], Welcome)
    changed = replace(changed, version="9.9.9")
    monkeypatch.setattr(module, "verify", lambda *_: None)
    ours = begins.welcomed(bytes(SIGNATURE_BYTES) + packed(changed))
    with pytest.raises(KeyRefused):
        theirs.open(ours.close(b"x", "POST", "/"), "POST", "/")


# -- sealed bodies -------------------------------------------------------------------------


def test_a_body_is_for_one_path_method_session_and_direction(begins: Beginning) -> None:
    agent, coordinator = both(begins)
    begins.asking = begins.ask()
    _, another = both(begins)
    body = agent.close(b"content", "POST", "/v1/calls/1/values/aa")
    for receiver, method, path in (
        (coordinator, "POST", "/v1/calls/2/values/aa"),
        (coordinator, "POST", "/v1/calls/1/values/aaa"),
        (coordinator, "PUT", "/v1/calls/1/values/aa"),
        (another, "POST", "/v1/calls/1/values/aa"),
        (agent, "POST", "/v1/calls/1/values/aa"),
    ):
        with pytest.raises(KeyRefused, match="not sealed in this session"):
            receiver.open(body, method, path)
    assert coordinator.open(body, "POST", "/v1/calls/1/values/aa") == b"content"


def test_a_session_s_name_is_a_part_of_what_is_sealed() -> None:
    key = os.urandom(32)
    one, two = (Session(name * 32, TOKEN, key, key) for name in "ab")
    with pytest.raises(KeyRefused):
        two.open(one.close(b"content", "POST", "/"), "POST", "/")


def test_no_change_of_a_sealed_body_is_opened() -> None:
    key = os.urandom(32)
    sender, receiver = Seal(key), Seal(key)
    whole = sender.close(b"content" * 10, ABOUT)
    for body in mutants(whole, COUNT * 10):
        if body != whole:
            with pytest.raises(KeyRefused):
                receiver.open(body, ABOUT)
    assert receiver.open(whole, ABOUT)


@given(st.binary(max_size=300), st.binary(max_size=60))
def test_what_is_sealed_comes_back(content: bytes, about: bytes) -> None:
    key = os.urandom(32)
    sender, receiver = Seal(key), Seal(key)
    first, second = sender.close(content, about), sender.close(content, about)
    assert first != second and len(first) == len(content) + 24
    assert receiver.open(first, about) == receiver.open(second, about) == content


@given(st.lists(st.integers(0, 39), max_size=80), st.integers(1, 12))
@example([39, *range(40)], 12)
@settings(deadline=None)
def test_a_body_is_opened_once_and_only_while_it_is_remembered(
    order: list[int], remembered: int
) -> None:
    """Bodies arrive in any order, any number of times."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_REMEMBERED", remembered)
        key = os.urandom(32)
        sender, receiver = Seal(key), Seal(key)
        bodies = [sender.close(bytes([number]), ABOUT) for number in range(40)]
        highest, opened = -1, set()
        for number in order:
            new = number not in opened and number > highest - remembered
            if new:
                assert receiver.open(bodies[number], ABOUT) == bytes([number])
                opened.add(number)
                highest = max(highest, number)
            else:
                with pytest.raises(KeyRefused, match="a second time"):
                    receiver.open(bodies[number], ABOUT)
            assert len(receiver._seen) <= remembered


def test_parts_in_flight_may_overtake_each_other() -> None:
    key = os.urandom(32)
    sender, receiver = Seal(key), Seal(key)
    bodies = [sender.close(b"", ABOUT) for _ in range(_REMEMBERED + 1)]
    receiver.open(bodies[-1], ABOUT)
    with pytest.raises(KeyRefused, match="a second time"):
        receiver.open(bodies[0], ABOUT)
    for body in reversed(bodies[1:-1]):
        receiver.open(body, ABOUT)


def test_a_forged_counter_changes_nothing() -> None:
    """What does not verify must not move the window: nobody else could make it forget."""
    key = os.urandom(32)
    sender, receiver = Seal(key), Seal(key)
    first = sender.close(b"first", ABOUT)
    for counter in (2**64 - 1, 2**32, 0):
        with pytest.raises(KeyRefused):
            receiver.open(counter.to_bytes(8, "little") + first[8:], ABOUT)
    assert receiver.open(first, ABOUT) == b"first"


def test_a_hello_names_what_the_silo_expects(begins: Beginning, tmp_path: Path) -> None:
    hello: Any = read_hello(begins.asking.hello)
    assert isinstance(hello, Hello) and hello.coordinator == begins.pin != A
    fresh = read_hello(begins.ask().hello)
    assert (fresh.mlkem, fresh.x25519) != (hello.mlkem, hello.x25519)

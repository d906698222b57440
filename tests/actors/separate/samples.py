"""One sample of each message between clusters, and strategies that draw any valid one."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from blindsum.actors.separate.messages import (
    TABLE,
    Answer,
    Decision,
    Enrolled,
    Enrolment,
    Failure,
    Frame,
    Hello,
    Instruction,
    JobProposal,
    Next,
    Notice,
    Poll,
    Proposal,
    Proposed,
    Renewal,
    Welcome,
)
from blindsum.he.identity import PUBLIC_BYTES

A, B = "a" * 64, "b" * 64
TOKEN = "0123456789abcdef" * 2
PART = Frame(aggregator=1, digest=A, size=2**21)
INLINE = Frame(aggregator=0, digest="", size=3)

SAMPLES: dict[type, tuple[Any, list[bytes]]] = {
    Hello: (
        Hello(
            silo="alder",
            version="0.1.0",
            protocol=1,
            instance=TOKEN,
            coordinator=A,
            mlkem=b"m" * 1184,
            x25519=b"x" * 32,
        ),
        [],
    ),
    Welcome: (
        Welcome(session=TOKEN, instance=TOKEN, version="0.1.0", hello=A, sealed=b"s" * 1200),
        [],
    ),
    Enrolment: (
        Enrolment(silo="alder", identity=b"i" * PUBLIC_BYTES, request="-----BEGIN", proof=A),
        [],
    ),
    Enrolled: (
        Enrolled(identity=b"i" * PUBLIC_BYTES, certificate="PEM", authority="PEM", proof=B),
        [],
    ),
    Poll: (
        Poll(
            after=7,
            park=True,
            board=3,
            answers=(
                Answer(number=5, outcome="answered", value=(INLINE,), frames=(INLINE, PART)),
                Answer(
                    number=6,
                    outcome="raised",
                    failure=Failure(kind="DataError", what="w", hint="h", silo="alder", round=2),
                ),
                Answer(number=7, outcome="died"),
            ),
            decisions=(
                Decision(proposal=A, verdict="approved", weights=B),
                Decision(proposal=B, verdict="refused", reason="not this quarter"),
            ),
        ),
        [b"one", b"two"],
    ),
    Next: (
        Next(
            received=(5, 6),
            instructions=(
                Instruction(number=8, run="run-1", method="start", proposal=A, resumed=True),
                Instruction(number=9, run="run-1", method="finish", messages=1, aggregators=2),
                Instruction(
                    number=10, run="run-1", method="apply", messages=2, frames=(INLINE, INLINE)
                ),
            ),
            board=4,
            notices=(
                Notice(proposal=A, state="proposed"),
                Notice(proposal=B, state="failed", note="too few silos"),
            ),
        ),
        [b"agreements", b"exchange", b"next", b"sum", b"SUM"],
    ),
    Proposal: (
        Proposal(name="trial", job='{"name": "trial"}', code=("net.py",)),
        [b"import torch"],
    ),
    Renewal: (Renewal(content="PEM", authority="PEM"), []),
    JobProposal: (
        JobProposal(
            proposal=Proposal(name="trial", job="{}", code=("net.py",)), nonce=TOKEN, proof=A
        ),
        [b"import torch"],
    ),
    Proposed: (Proposed(digest=A, silos=(("alder", "0123456789abcdef"),), proof=B), []),
}
"""What the fuzzers start from. Between them the samples have every nested message."""


def reachable() -> set[type]:
    """Every message of the table, and every one within them."""
    found: set[type] = set()
    for kind in TABLE:
        found |= _within(kind.type)
    return found


def _within(annotation: Any) -> set[type]:
    if is_dataclass(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return {annotation, *(one for hint in hints.values() for one in _within(hint))}  # type: ignore[arg-type]
    return {one for part in get_args(annotation) for one in _within(part)}


def messages_in(message: Any) -> Iterator[Any]:
    """A message and every one within it."""
    if is_dataclass(message):
        yield message
        for one in fields(message):
            yield from messages_in(getattr(message, one.name))
    elif isinstance(message, tuple):
        for item in message:
            yield from messages_in(item)


def any_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Draws whatever a message's field of that type may be."""
    if is_dataclass(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return st.builds(annotation, **{name: any_of(hint) for name, hint in hints.items()})  # type: ignore[arg-type]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(any_of, arguments))
    if origin is tuple and Ellipsis not in arguments:
        return st.tuples(*map(any_of, arguments))
    return {bool: st.booleans(), type(None): st.none()}[annotation]


def _bounded(kind: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Draws a number, text, bytes or tuple within the bounds that its field has."""
    bounds: dict[str, Any] = {}
    for field in metadata:
        for one in field.metadata if isinstance(field, FieldInfo) else ():
            bounds |= {
                name: value
                for name in ("ge", "le", "lt", "min_length", "max_length", "pattern")
                if (value := getattr(one, name, None)) is not None
            }
    if kind is int:
        return st.integers(bounds["ge"], bounds.get("le", bounds.get("lt", 1) - 1))
    if "pattern" in bounds:
        return st.from_regex(bounds["pattern"].removesuffix("$") + r"\Z")
    least, most = bounds.get("min_length", 0), bounds["max_length"]
    if kind is bytes:
        return st.binary(min_size=least, max_size=max(least, min(most, 40)))
    if kind is str:
        return st.text(st.characters(codec="utf-8"), max_size=min(most, 40))
    return st.lists(any_of(get_args(kind)[0]), max_size=min(most, 3)).map(tuple)


def peak_bytes() -> int:
    """The most memory that this process has had since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> int:
    """Forget the peak, and return the memory that this process has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()

"""The messages between the coordinator and a silo's agent. `TABLE` lists all of them.

Each is a frozen value with bounded fields, checked while it is read. Bytes that are long travel
beside a message as attachments (`packed`). Agents and coordinators must have the same PROTOCOL and
the same minor version of blindsum.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from pydantic import Field
from pydantic.dataclasses import dataclass

from blindsum.actors.codec import decoded, encoded
from blindsum.he.exchange import STRICT, RunName, SiloName
from blindsum.he.identity import PUBLIC_BYTES
from blindsum.platform.errors import FederationError

PROTOCOL = 3

SESSION = "Blindsum-Session"
"""The header in which a request names its session."""

PARK_S = 5.0
"""The longest time for which a poll is parked. Every proxy's idle limit is longer."""

INLINE = 2**20
"""Frames up to this size in all travel with their message; larger ones go ahead of it, in parts."""

MOST_PART = 2**22 + 2**17
"""The greatest size of a part: a total's frame with 64 ciphertexts (`blindsum.he.wire`)."""

PART = 2**21
"""What is longer crosses in pieces of this size, so that a cut costs no more than one of them."""

MOST_FILES = 2**20
"""The greatest size of a proposal's code in bytes."""

MOST_VALUES = 2**17
"""The most values of a message, as `blindsum.actors.codec` counts them: a decoded message then
takes less memory than the greatest body."""

T = TypeVar("T")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$")]
Count = Annotated[int, Field(ge=0, lt=2**40)]
Text = Annotated[str, Field(max_length=4000)]
Number = Annotated[int, Field(ge=1, lt=2**40)]
Method = Literal[
    "start",
    "inspect",
    "restore",
    "request_state",
    "seal_state",
    "take_state",
    "introduce",
    "contribute",
    "agree",
    "finish",
    "train",
    "apply",
    "evaluate",
    "read_metrics",
    "release",
    "forget",
    "progress",
    "ping",
    "end",
]
Verdict = Literal["approved", "refused", "pending"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Hello:
    """An agent asks for a session. Signed by the silo's identity.

    Attributes:
        instance: random, new for each start of the agent.
        coordinator: fingerprint of the coordinator's identity that the silo expects.
        mlkem, x25519: fresh public keys, for this session alone; 1,184 and 32 bytes.
    """

    silo: SiloName
    version: Version
    protocol: Annotated[int, Field(ge=0, le=2**31)]
    instance: Token
    coordinator: Sha256
    mlkem: Annotated[bytes, Field(max_length=2048)]
    x25519: Annotated[bytes, Field(max_length=64)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Welcome:
    """The coordinator grants a session. Signed by the coordinator's identity.

    Attributes:
        session: the session's name in later requests.
        instance: random, new for each start of the coordinator.
        hello: SHA-256 of the signed hello that this answers.
        sealed: the session's secret, sealed to the hello's keys.
    """

    session: Token
    instance: Token
    version: Version
    hello: Sha256
    sealed: Annotated[bytes, Field(max_length=4096)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Frame:
    """A frame of ciphertext, or a part of a long value, that belongs to a message.

    Attributes:
        aggregator: the number of the aggregator that adds it or that closed it; 0 for other parts.
        digest: SHA-256 of its bytes, under which it is put or fetched as a part; empty if it is
            attached to the message.
        size: its length in bytes.
    """

    aggregator: Annotated[int, Field(ge=0, lt=64)]
    digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    size: Annotated[int, Field(ge=1, le=MOST_PART)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Instruction:
    """The coordinator calls a method of a silo.

    Attributes:
        number: counts this silo's instructions since the coordinator started.
        messages: how many attachments are the method's messages, before any frames.
        aggregators: only for `finish`: the number of aggregators.
        frames: for `apply` and `read_metrics` the total, for `take_state` the sealed state, in
            the order of its parts.
        proposal, resumed: only for `start`: the approved proposal, and whether the run goes on.
    """

    number: Number
    run: RunName
    method: Method
    messages: Annotated[int, Field(ge=0, le=2)] = 0
    aggregators: Annotated[int, Field(ge=0, le=64)] = 0
    frames: Annotated[tuple[Frame, ...], Field(max_length=30_000, fail_fast=True)] = ()
    proposal: Sha256 | None = None
    resumed: bool = False


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Failure:
    """An error of a silo, of a kind in `blindsum.actors.separate.failures`."""

    kind: Annotated[str, Field(pattern=r"^[A-Za-z]{1,40}$")]
    what: Text
    hint: Text = ""
    silo: SiloName | None = None
    round: Annotated[int, Field(ge=0, le=10_000_000)] | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Answer:
    """A silo's answer to one instruction.

    Attributes:
        value: what the method returned, in parts; empty if it returned nothing.
        frames: frames of ciphertext that the silo sent meanwhile and that are not added yet.
    """

    number: Number
    outcome: Literal["answered", "raised", "died"]
    value: Annotated[tuple[Frame, ...], Field(max_length=4096, fail_fast=True)] = ()
    failure: Failure | None = None
    frames: Annotated[tuple[Frame, ...], Field(max_length=64, fail_fast=True)] = ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Decision:
    """What a silo's owner decided about a proposal. `weights` is the digest of the approved initial
    weights; `reason` is what the owner wants the coordinator to read."""

    proposal: Sha256
    verdict: Verdict
    weights: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    reason: Annotated[str, Field(max_length=500)] = ""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Poll:
    """An agent reports, and asks for what comes next.

    Attributes:
        after: the number of the newest instruction that it has received.
        park: whether the coordinator may wait for an instruction before it answers.
        board: the revision of the proposals that the agent knows.
        answers: answers that the coordinator has not confirmed yet.
        decisions: the owner's decisions, when they changed and at the start of a session.
    """

    after: Count
    park: bool
    board: Count = 0
    answers: Annotated[tuple[Answer, ...], Field(max_length=32, fail_fast=True)] = ()
    decisions: Annotated[tuple[Decision, ...], Field(max_length=256, fail_fast=True)] = ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Notice:
    """The state of a proposal: proposed, running, interrupted, finished, failed or withdrawn.

    Attributes:
        note: how it ended, for people.
    """

    proposal: Sha256
    state: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")]
    note: Annotated[str, Field(max_length=1000)] = ""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Next:
    """The coordinator's answer to a poll.

    Attributes:
        received: the numbers of the answers that arrived.
        board: the revision of the proposals.
        notices: the open and the latest ended proposals for this silo, if the revision is new to
            the agent.
    """

    received: Annotated[tuple[Number, ...], Field(max_length=32, fail_fast=True)] = ()
    instructions: Annotated[tuple[Instruction, ...], Field(max_length=32, fail_fast=True)] = ()
    board: Count = 0
    notices: Annotated[tuple[Notice, ...], Field(max_length=256, fail_fast=True)] = ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Proposal:
    """A job that is proposed to its silos.

    Attributes:
        job: the job as JSON, with every default written out.
        code: names of the files of its `model.factory`; their contents are attached, in order.
    """

    name: Annotated[str, Field(max_length=100)]
    job: Annotated[str, Field(max_length=2**20)]
    code: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=64)] = ()


@dataclass(frozen=True, config=STRICT, kw_only=True)
class JobProposal:
    """Whoever may propose proposes a job; proven by the secret of the proposer's token. The code's
    contents are attached.

    Attributes:
        nonce: random; a second proposal with it is refused.
        proof: HMAC-SHA256 by the secret, over everything else.
    """

    proposal: Proposal
    nonce: Token
    proof: Sha256


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Proposed:
    """The coordinator took a proposal; proven by the same secret, over the proposal and this.

    Attributes:
        silos: the silos' names with the short forms of their identities' fingerprints.
    """

    digest: Sha256
    silos: Annotated[
        tuple[tuple[SiloName, Annotated[str, Field(max_length=64)]], ...],
        Field(max_length=64, fail_fast=True),
    ]
    proof: Sha256


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Enrolment:
    """A silo that was invited asks to be enrolled; proven by the invitation's secret.

    Attributes:
        request: a certificate request (PKCS #10, PEM).
        proof: HMAC-SHA256 by the secret, over everything else.
    """

    silo: SiloName
    identity: Annotated[bytes, Field(min_length=PUBLIC_BYTES, max_length=PUBLIC_BYTES)]
    request: Annotated[str, Field(max_length=4096)]
    proof: Sha256


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Enrolled:
    """The coordinator enrolled a silo; proven by the invitation's secret.

    Attributes:
        identity: the coordinator's public identity.
        certificate, authority: the silo's and the authority's certificate, PEM.
        proof: HMAC-SHA256 by the secret, over the enrolment and everything else.
    """

    identity: Annotated[bytes, Field(min_length=PUBLIC_BYTES, max_length=PUBLIC_BYTES)]
    certificate: Annotated[str, Field(max_length=8192)]
    authority: Annotated[str, Field(max_length=8192)]
    proof: Sha256


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Renewal:
    """An agent asks for a new certificate, or is sent one.

    Attributes:
        content: the request or the certificate, PEM.
        authority: only in the answer: every authority's certificate to trust from now on, PEM.
    """

    content: Annotated[str, Field(max_length=8192)]
    authority: Annotated[str, Field(max_length=8192)] = ""


@plain_dataclass(frozen=True)
class Kind:
    """A kind of message: its type, who sends it, and the greatest size of it with attachments."""

    type: Any
    sender: Literal["agent", "coordinator"]
    most_bytes: int


TABLE: tuple[Kind, ...] = (
    Kind(Hello, "agent", 2**14),
    Kind(Welcome, "coordinator", 2**14),
    Kind(Enrolment, "agent", 2**14),
    Kind(Enrolled, "coordinator", 2**15),
    Kind(Poll, "agent", 2**26),
    Kind(Next, "coordinator", 2**25),
    Kind(Proposal, "coordinator", 2**21 + MOST_FILES),
    Kind(Renewal, "agent", 2**14),
    Kind(JobProposal, "agent", 2**21 + MOST_FILES),
    Kind(Proposed, "coordinator", 2**15),
)
"""Every message that crosses as a body of its own. `Poll` and `Next` carry the others."""

_PREFIX = struct.Struct("<4sII")  # magic, length of the message, number of attachments
_MAGIC = b"bls1"
_MOST_ATTACHED = 4096


def most_bytes(kind: type[Any]) -> int:
    """Return the greatest size of a message of that kind, with its attachments."""
    return next(one.most_bytes for one in TABLE if one.type is kind)


def packed(message: Any, attachments: Sequence[bytes | pa.Buffer] = ()) -> bytes:
    """Encode a message and its attachments as one body: a prefix, the attachments' lengths, the
    message as JSON, and the attachments."""
    head = encoded(message)
    lengths = struct.pack(f"<{len(attachments)}I", *map(len, attachments))
    prefix = _PREFIX.pack(_MAGIC, len(head), len(attachments))
    return b"".join([prefix, lengths, head, *(memoryview(one) for one in attachments)])


def unpacked(body: bytes, kind: type[T]) -> tuple[T, list[memoryview]]:
    """Decode a body: the message, and its attachments as views into the body.

    Raises:
        FederationError: it is too long, or is not a message of that kind.
    """
    name = kind.__name__
    if len(body) > most_bytes(kind):
        raise FederationError(f"received a {name} of {len(body)} bytes, longer than any")
    magic, size, count = _PREFIX.unpack(body[: _PREFIX.size].ljust(_PREFIX.size, b"\0"))
    start = _PREFIX.size + 4 * count
    if magic != _MAGIC or count > _MOST_ATTACHED or start + size > len(body):
        raise FederationError(f"received something that is not a {name}")
    lengths = struct.unpack(f"<{count}I", body[_PREFIX.size : start])
    message = decoded(body[start : start + size], kind, MOST_VALUES)
    start += size
    if sum(lengths) != len(body) - start:
        raise FederationError(f"received a {name} whose attachments have another length")
    view, attachments = memoryview(body), []
    for length in lengths:
        attachments.append(view[start : start + length])
        start += length
    return message, attachments

"""A client that speaks to a gate by hand: a silo's agent that lies, or a stranger."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import urllib.parse
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from blindsum.actors.cluster import Answered, Outcome
from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.actors.separate.messages import SESSION, Answer, Frame, Next, Poll, packed, unpacked
from blindsum.actors.separate.session import Asking, Session
from blindsum.he.identity import Identity, fingerprint
from blindsum.infra.certificates import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY
from blindsum.platform.job.schema import Job
from tests.actors.separate.organisations import VERSION, Coordinator, Organisation

INSTANCE = "f" * 32


class Refused(Exception):
    """The gate refused a request."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.what = status, ""
        try:
            self.what = str(json.loads(body)["detail"])
        except (ValueError, KeyError, TypeError):
            self.what = body[:100].decode(errors="replace")
        super().__init__(f"{status} {self.what}")


def certified(one: Organisation) -> ssl.SSLContext:
    """TLS with that organisation's certificate."""
    tls = one.tls
    return client_context(tls / CA_CERTIFICATE, tls / NODE_CERTIFICATE, tls / NODE_KEY)


def uncertified(coordinator: Coordinator) -> ssl.SSLContext:
    """TLS without a certificate of the client."""
    return client_context(coordinator.folder / CA_CERTIFICATE, None, None)


def connection(url: str, context: ssl.SSLContext, timeout_s: float = 30) -> ssl.SSLSocket:
    """An open TLS connection, for those who do not speak HTTP as they should."""
    at = urllib.parse.urlsplit(url)
    plain = socket.create_connection((at.hostname, at.port), timeout_s)
    return context.wrap_socket(plain, server_hostname=at.hostname)


def request(
    url: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> bytes:
    """Make one request on a connection of its own. Raises Refused."""
    at = urllib.parse.urlsplit(url)
    http_ = http.client.HTTPSConnection(at.hostname or "", at.port, timeout=30, context=context)
    try:
        http_.request(method, path, body, headers or {})
        answer = http_.getresponse()
        content = answer.read()
    finally:
        http_.close()
    if answer.status != 200:
        raise Refused(answer.status, content)
    return content


class Liar:
    """Holds everything that an organisation holds, and says what it likes.

    Args:
        identity: another identity than the organisation's.
    """

    def __init__(
        self,
        of: Organisation,
        coordinator: Coordinator,
        *,
        name: str | None = None,
        identity: Identity | None = None,
        context: ssl.SSLContext | None = None,
        version: str = VERSION,
        instance: str = INSTANCE,
    ) -> None:
        self.url, self.public = coordinator.url, coordinator.identity.public
        self.context = context or certified(of)
        self.identity = identity or of.identity
        self.name, self.version, self.instance = name or of.name, version, instance
        self.session: Session | None = None

    def hello(self) -> Asking:
        pin = fingerprint(self.public)
        return Asking(self.name, self.identity, pin, self.version, self.instance)

    def say_hello(self, body: bytes) -> bytes:
        """Send a hello; returns the welcome. Raises Refused."""
        return request(self.url, self.context, "POST", "/v1/sessions", body)

    def begin(self) -> Liar:
        """Begin a session."""
        asking = self.hello()
        self.session, _ = asking.welcomed(self.say_hello(asking.hello), self.public)
        return self

    def send(
        self, method: str, path: str, sealed: bytes, session: str | None = None, **headers: str
    ) -> bytes:
        """Send a body as it is; returns the answer as it is. Raises Refused."""
        assert self.session
        named = {SESSION: session or self.session.name, **headers}
        return request(self.url, self.context, method, path, sealed, named)

    def ask(self, method: str, path: str, content: bytes = b"") -> bytes:
        """Send a body in the session; returns the answer's content. Raises Refused."""
        assert self.session
        answer = self.send(method, path, self.session.close(content, method, path))
        return self.session.open(answer, method, path)

    def poll(self, attachments: list[Any] | None = None, **fields: Any) -> Next:
        """Poll without waiting; returns what the gate answers."""
        asked = Poll(**{"after": 0, "park": False, **fields})
        answer = self.ask("POST", "/v1/poll", packed(asked, attachments or []))
        return unpacked(answer, Next)[0]

    def keep(self) -> http.client.HTTPSConnection:
        """Poll on a connection that stays open until it is closed."""
        at = urllib.parse.urlsplit(self.url)
        kept = http.client.HTTPSConnection(
            at.hostname or "", at.port, timeout=30, context=self.context
        )
        self.again(kept)
        return kept

    def again(self, kept: http.client.HTTPSConnection) -> None:
        """Poll once more on a connection that is open. Raises OSError if it was ended."""
        assert self.session
        body = self.session.close(packed(Poll(after=0, park=False)), "POST", "/v1/poll")
        kept.auto_open = not kept.sock  # type: ignore[assignment]
        kept.request("POST", "/v1/poll", body, {SESSION: self.session.name})
        answer = kept.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise Refused(answer.status, content)
        self.session.open(content, "POST", "/v1/poll")


def post(box: Mailbox, method: str = "inspect", **named: Any) -> Future[Outcome]:
    return box.post(method, "run-1", box.life, **named)


def listed(*contents: bytes, aggregator: int = 0) -> tuple[Frame, ...]:
    """The parts as a message announces them that were put ahead of it."""
    return tuple(
        Frame(aggregator=aggregator, digest=hashlib.sha256(one).hexdigest(), size=len(one))
        for one in contents
    )


def attached(*contents: bytes, aggregator: int = 0) -> tuple[Frame, ...]:
    return tuple(Frame(aggregator=aggregator, digest="", size=len(one)) for one in contents)


def answered(number: int, *contents: bytes, **named: Any) -> Answer:
    return Answer(number=number, outcome="answered", value=attached(*contents), **named)


def put(liar: Liar, number: int, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    liar.ask("POST", f"/v1/calls/{number}/values/{digest}", content)


class Adding:
    """Aggregators as a mailbox knows them."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome or Answered(b"")
        self.stuck = False
        self.got: list[tuple[int, bytes]] = []

    def __call__(self, aggregator: int, frame: pa.Buffer) -> Future[Outcome]:
        self.got.append((aggregator, frame.to_pybytes()))
        added: Future[Outcome] = Future()
        if not self.stuck:
            added.set_result(self.outcome)
        return added


def send_frame(liar: Liar, content: bytes, number: int = 1, aggregator: int = 0) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return liar.ask("POST", f"/v1/calls/{number}/frames/{aggregator}/{digest}", content)


def of(job: Job, *names: str) -> Job:
    """The job with these silos, at machines with owners' files."""
    content = job.model_dump(mode="json")
    content["silos"] = [{"name": name, "data": "tumours"} for name in names]
    return Job.model_validate(content)
